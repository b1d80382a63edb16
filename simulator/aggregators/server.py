"""The aggregator as an HTTP server.

POST or GET /bid     a bid request in the server's dialect
GET /_control        the behaviour in force
POST /_control       JSON with the fields of the behaviour to change; takes effect with the next request
GET /_stats          counters since the start
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from simulator.aggregators.behaviour import Behaviour, Plan, decide
from simulator.aggregators.catalogue import Catalogue
from simulator.aggregators.dialects import Ask, BadRequestError, Dialect, Offer
from simulator.aggregators.modes import JSON_HEADERS, MODES, Exchange
from simulator.aggregators.stats import Stats

HOST = "127.0.0.1"
BID_PATH = "/bid"
CONTROL_PATH = "/_control"
STATS_PATH = "/_stats"

_BACKLOG = 1_024
# Requests that hang on purpose must not delay the end.
_SHUTDOWN_TIMEOUT_S = 0.1


class AggregatorServer:
    """One aggregator. Lives on one event loop.

    Args:
        name: Goes into ad ids and draws: two aggregators with the same seed bid differently.
        dialect: What it speaks.
        seed: With name and auction id it decides every answer.
        behaviour: To begin with.
    """

    def __init__(self, name: str, dialect: Dialect, seed: int, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.stats = Stats()
        self._name = name
        self._dialect = dialect
        self._seed = seed
        self._catalogue = Catalogue(name)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer any request."""
        route = (request.method, request.path)
        if request.path == BID_PATH and request.method in {"GET", "POST"}:
            return await self._bid(request)
        if route == ("GET", CONTROL_PATH):
            return _json(self.behaviour)
        if route == ("POST", CONTROL_PATH):
            return self._change(await request.read())
        if route == ("GET", STATS_PATH):
            return _json(self.stats)
        return web.Response(status=404, text=f"only {BID_PATH}, {CONTROL_PATH} and {STATS_PATH} are served\n")

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[int]:
        """Serve on 127.0.0.1 within the context; yields the port.

        Raises:
            OSError: The port is taken.
        """
        # A bare server instead of an application: no routing, no middleware, no access log. And a handler is cancelled
        # when its client goes away, else the silent ones would pile up.
        server = web.Server(self.handle, access_log=None, handler_cancellation=True)
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_TIMEOUT_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, port, backlog=_BACKLOG).start()
            yield int(runner.addresses[0][1])
        finally:
            await runner.cleanup()

    async def _bid(self, request: web.BaseRequest) -> web.StreamResponse:
        stats = self.stats
        stats.requests += 1
        stats.in_flight += 1
        try:
            return await self._answer(request)
        except asyncio.CancelledError:
            stats.hung_up += 1
            raise
        finally:
            stats.in_flight -= 1

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        stats = self.stats
        try:
            ask = self._dialect.read(request.method, request.query, await request.read())
        except BadRequestError as error:
            stats.bad_requests += 1
            return web.Response(status=400, text=f"{error}\n")
        behaviour = self.behaviour
        plan = decide(behaviour, self._seed, self._name, ask.auction_id)
        any_offer = self._offer(ask, plan, behaviour)
        offer = any_offer if any_offer is not None and _wanted(any_offer, ask, plan, behaviour) else None
        stats.by_mode[plan.mode] = stats.by_mode.get(plan.mode, 0) + 1
        exchange = Exchange(
            request=request,
            ask=ask,
            plan=plan,
            behaviour=behaviour,
            dialect=self._dialect,
            offer=offer,
            any_offer=any_offer,
            stats=stats,
        )
        return await MODES[plan.mode](exchange)

    def _offer(self, ask: Ask, plan: Plan, behaviour: Behaviour) -> Offer | None:
        ad = self._catalogue.choose(plan.pick, ask.slot_ms, ask.last_ad)
        if ad is None:
            return None
        return Offer(
            bid_id=f"{self._name}-{ask.auction_id[:16]}",
            price_micros=plan.price_micros,
            currency=behaviour.currency,
            creative=behaviour.creative,
            ad=ad,
        )

    def _change(self, body: bytes) -> web.Response:
        try:
            self.behaviour = changed(self.behaviour, body)
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        return _json(self.behaviour)


def changed(behaviour: Behaviour, body: bytes) -> Behaviour:
    """The behaviour with the fields in `body`, a JSON object; fields that are not in it stay.

    Raises:
        ValueError: No JSON object, an unknown field or mode, or a value out of bounds.
    """
    fields = msgspec.json.decode(body, type=dict[str, object])
    new = msgspec.convert(msgspec.to_builtins(behaviour) | fields, Behaviour)
    if new.mode not in MODES:
        raise ValueError(f"unknown mode {new.mode!r}; known are {', '.join(MODES)}")
    return new


def _wanted(offer: Offer, ask: Ask, plan: Plan, behaviour: Behaviour) -> bool:
    if not plan.wants_to_bid:
        return False
    return not behaviour.respects_floor or offer.price_micros >= ask.floor * 1_000_000


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), headers=JSON_HEADERS)
