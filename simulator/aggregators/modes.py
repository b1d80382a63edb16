"""The ways in which an aggregator answers, or fails to: one small function each.

A new one is a function and its line in `MODES`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from simulator.aggregators.behaviour import Behaviour, Plan
from simulator.aggregators.dialects import Ask, Dialect, Offer
from simulator.aggregators.stats import Stats

JSON_HEADERS = {"Content-Type": "application/json"}


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One request, and all that is needed to answer it.

    Attributes:
        offer: What it bids; `None` when it declines.
        any_offer: What it would bid if it had to; for modes that spoil a bid. `None` only if no ad fits the slot.
    """

    request: web.BaseRequest
    ask: Ask
    plan: Plan
    behaviour: Behaviour
    dialect: Dialect
    offer: Offer | None
    any_offer: Offer | None
    stats: Stats

    async def wait(self, extra_ms: float = 0.0) -> None:
        """Let the planned latency pass."""
        await asyncio.sleep((self.plan.latency_ms + extra_ms) / 1_000)

    def honest(self) -> web.Response:
        """The answer of a sound aggregator; counts it."""
        if self.offer is None:
            self.stats.no_bids += 1
            return no_bid()
        self.stats.bids += 1
        return bid(self.dialect.write(self.ask.auction_id, self.offer))

    def some_bid(self) -> bytes:
        """A valid bid even where it would decline, for modes that spoil it."""
        return b"{}" if self.any_offer is None else self.dialect.write(self.ask.auction_id, self.any_offer)


Mode = Callable[[Exchange], Awaitable[web.StreamResponse]]


def no_bid() -> web.Response:
    """204."""
    return web.Response(status=204)


def bid(body: bytes) -> web.Response:
    """200 with a JSON document."""
    return web.Response(body=body, headers=JSON_HEADERS)


async def ok(exchange: Exchange) -> web.StreamResponse:
    """Answer as it should."""
    await exchange.wait()
    return exchange.honest()


async def silent(_exchange: Exchange) -> web.StreamResponse:
    """Take the request and never answer; ends when the client goes away."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets the event")


async def slow(exchange: Exchange) -> web.StreamResponse:
    """Answer as it should, but later."""
    await exchange.wait(exchange.behaviour.slow_ms)
    return exchange.honest()


async def http_500(exchange: Exchange) -> web.StreamResponse:
    """Fail."""
    await exchange.wait()
    return web.Response(status=500, text="internal error")


async def reset(exchange: Exchange) -> web.StreamResponse:
    """Announce a whole body, send half of it, then cut the connection."""
    await exchange.wait()
    body = exchange.some_bid()
    response = web.StreamResponse(headers=JSON_HEADERS | {"Content-Length": str(len(body))})
    await response.prepare(exchange.request)
    await response.write(body[: len(body) // 2])
    cut(exchange)
    return response


async def garbage(exchange: Exchange) -> web.StreamResponse:
    """Send a bid that was damaged into something that is no JSON."""
    await exchange.wait()
    return bid(exchange.some_bid()[:-2] + b'"\xff\x00{')


async def wrong_id(exchange: Exchange) -> web.StreamResponse:
    """Answer somebody else's auction."""
    await exchange.wait()
    if exchange.any_offer is None:
        return no_bid()
    return bid(exchange.dialect.write(f"not-{exchange.ask.auction_id}", exchange.any_offer))


def cut(exchange: Exchange) -> None:
    """End the connection as a crash of the aggregator would."""
    transport = exchange.request.transport
    if transport is not None:
        transport.abort()


MODES: dict[str, Mode] = {
    "ok": ok,
    "silent": silent,
    "slow": slow,
    "http_500": http_500,
    "reset": reset,
    "garbage": garbage,
    "wrong_id": wrong_id,
}
