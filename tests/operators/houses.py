"""An auction house as a process has it, and real servers on this machine that do what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from aiohttp.abc import AbstractResolver
from msgspec.structs import replace

from aggregators.contract import Adapter
from aggregators.registry import build_adapters
from datastreamx.clock import ManualClock
from datastreamx.config import AggregatorConfig, AuctionConfig, Config
from datastreamx.model.auction import Decision, Opportunity, Outcome
from datastreamx.wire.signing import SigningKey
from operators.bidding.auction import Rules
from operators.bidding.bidder import Bidder
from operators.bidding.caller import Caller
from operators.bidding.house import AuctionHouse, HouseParts
from operators.bidding.rates import RateTable
from operators.bidding.selection import build_policy
from operators.bidding.throttle import Throttle
from simulator.aggregators import Behaviour
from simulator.aggregators.dialects import DIALECTS
from simulator.aggregators.server import AggregatorServer
from tests.builders import T0, config, opportunity

T = TypeVar("T")

SEED = 20_240_915
NOWHERE = "http://127.0.0.1:9/bid"
FOREVER_MS = 60_000
"""Longer than a test may take: a time-out of this length plays no part."""


def run(story: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(story)


async def until(holds: Callable[[], bool]) -> None:
    """Let the event loop turn until this holds; the test's own time limit ends a wait in vain."""
    while not holds():  # noqa: ASYNC110 - facts about sockets and tasks, for which there is no event
        await asyncio.sleep(0.001)


class Request(NamedTuple):
    """One request that a `Stub` has got.

    Attributes:
        connection: Number of the connection, from 1.
        place: Number of the request on its connection, from 1.
    """

    head: str
    body: bytes
    connection: int
    place: int

    @property
    def text(self) -> str:
        return self.head + self.body.decode()

    @property
    def told(self) -> dict[str, Any]:
        """The body as JSON."""
        told: dict[str, Any] = json.loads(self.body)
        return told


Answer = Callable[[Request], Awaitable[bytes | None]]
"""The whole reply, head included, or `None` to hang up without one."""


class Stub:
    """A server that answers as it is told, and counts."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.url = ""
        self.connections = 0
        self.open: set[asyncio.StreamWriter] = set()
        self.requests: list[Request] = []

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Stub]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{listener.sockets[0].getsockname()[1]}/bid"
        try:
            yield self
        finally:
            listener.close()
            for writer in self.open:
                writer.transport.abort()
            await until(lambda: not self.open)
            await listener.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection, place = self.connections, 0
        self.open.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    place += 1
                    request = await _read(reader, connection, place)
                    self.requests.append(request)
                    reply = await self._answer_unless_gone(request, reader)
                    if reply is None:
                        break
                    writer.write(reply)
                    await writer.drain()
        finally:
            writer.transport.abort()
            self.open.discard(writer)

    async def _answer_unless_gone(self, request: Request, reader: asyncio.StreamReader) -> bytes | None:
        """The answer; a client that goes away meanwhile ends the wait."""
        answering = asyncio.ensure_future(self.answer(request))
        leaving = asyncio.ensure_future(reader.read(1))
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        # Asyncio lets one coroutine read at a time: this one has to end before the next request is read.
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        if answering.done():
            return answering.result()
        answering.cancel()
        return None


async def _read(reader: asyncio.StreamReader, connection: int, place: int) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lengths = [line.partition(":")[2] for line in head.lower().splitlines() if line.startswith("content-length:")]
    body = await reader.readexactly(int(lengths[0])) if lengths else b""
    return Request(head, body, connection, place)


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A whole reply."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


def offer(ad: str = "ad-1", price: float = 5.0, **fields: Any) -> bytes:
    """A reply with one ad, in the dialect `simple`."""
    return http(json.dumps({"ad": ad, "price": price, "currency": "USD", "duration_ms": 15_000, **fields}).encode())


NO_BID = http(b"", "204 No Content")


def always(reply: bytes | None) -> Answer:
    async def answer(_: Request) -> bytes | None:
        return reply

    return answer


async def never(_: Request) -> bytes | None:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets the event")


@dataclass
class Gate:
    """Holds replies back until it is opened."""

    reply: bytes
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, _: Request) -> bytes:
        await self.opened.wait()
        return self.reply


@asynccontextmanager
async def stubs(*answers: Answer) -> AsyncIterator[list[Stub]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Stub(answer).serving()) for answer in answers]


@asynccontextmanager
async def simulated(
    name: str, behaviour: Behaviour, dialect: str = "simple", tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[AggregatorServer, str]]:
    """An aggregator of the simulator in this event loop, and its address."""
    server = AggregatorServer(name, DIALECTS[dialect], SEED, behaviour)
    async with server.serving(0, tls) as port:
        yield server, f"{'https' if tls else 'http'}://127.0.0.1:{port}/bid"


def aggregator(name: str, url: str = NOWHERE, **changes: Any) -> AggregatorConfig:
    """One that speaks `simple` by POST, without warm connections: those would count as connections of calls."""
    fields: dict[str, Any] = {
        "name": name,
        "adapter": "simple",
        "url": url,
        "options": {"method": "POST"},
        "warm_connections": 0,
        "dynamic_timeout": False,
        "throttle": "off",
    }
    return AggregatorConfig(**{**fields, **changes})


def configured(*aggregators: AggregatorConfig, auction: Mapping[str, Any] | None = None, **sections: Any) -> Config:
    """A configuration in which no time-out plays a part unless `auction` says so."""
    fields = {"timeout_ms": FOREVER_MS, "late_grace_ms": FOREVER_MS, "push_reserve_ms": 20, **(auction or {})}
    return replace(config(), aggregators=aggregators, auction=AuctionConfig(**fields), **sections)


def fresh(number: int = 1, **changes: Any) -> Opportunity:
    """An opportunity with all the time in the world."""
    return opportunity(**{"auction_id": f"{number:032x}", "deadline_ms": T0 + 10 * FOREVER_MS, **changes})


class CountingThrottle(Throttle):
    """Counts the scores."""

    def __init__(self, aggregator: str) -> None:
        super().__init__(aggregator, "off")
        self.scores: list[bool] = []

    def record(self, ok: bool) -> None:  # noqa: FBT001 - as in Throttle
        super().record(ok)
        self.scores.append(ok)


@dataclass
class Open:
    """An open auction house."""

    house: AuctionHouse
    bidders: dict[str, Bidder]
    clock: ManualClock

    async def auction(self, found: Opportunity | None = None, attempt: int = 1) -> Decision:
        return await self.house.auction(found or fresh(), attempt, time.perf_counter_ns())

    async def finished(self, found: Opportunity | None = None) -> Decision:
        """The decision as it leaves."""
        return self.house.finish(await self.auction(found), self.clock.now_ms())

    async def idle(self) -> None:
        """Wait until no call is under way, not even a late one."""
        await until(lambda: all(bidder.bulkhead.in_flight == 0 for bidder in self.bidders.values()))


@asynccontextmanager
async def opened(
    settings: Config,
    *,
    adapters: Mapping[str, Adapter] | None = None,
    resolvers: Mapping[str, AbstractResolver] | None = None,
    rules: Rules | None = None,
) -> AsyncIterator[Open]:
    """A house on this event loop, put together as `flows.ports.ads` does it."""
    clock, auction = ManualClock(T0), settings.auction
    built = {**build_adapters(settings.aggregators), **(adapters or {})}
    bidders = {
        one.name: Bidder(
            one,
            built[one.name],
            Caller(one, auction.max_response_bytes, clock, (resolvers or {}).get(one.name)),
            auction,
            settings.privacy,
        )
        for one in settings.aggregators
    }
    push = settings.push
    parts = HouseParts(
        bidders=tuple(bidders.values()),
        policy=build_policy(settings.selection, tuple(bidders)),
        rules=rules or rules_of(settings),
        signing_key=SigningKey.from_hex(push.signing_key.reveal(), "k1") if push.signing_key is not None else None,
    )
    house = AuctionHouse(parts, settings, clock)
    try:
        yield Open(house, bidders, clock)
    finally:
        await house.close()


def rules_of(settings: Config, kind: type[Rules] = Rules) -> Rules:
    rates = RateTable(None, settings.auction.currency, 48, ManualClock(T0))
    return kind(settings.auction, rates, settings.viewing.slot_ms)


def codes(decision: Decision) -> dict[str, Outcome]:
    return {outcome.aggregator: outcome.code for outcome in decision.outcomes}


def code_of(decision: Decision) -> Outcome:
    (outcome,) = decision.outcomes
    return outcome.code
