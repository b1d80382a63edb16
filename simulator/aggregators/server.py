"""The aggregator as an HTTP server.

POST or GET /bid     a bid request in the server's dialect
GET or POST /notice  what became of a bid, at an address that the bid carried
GET /_control        the behaviour in force
POST /_control       JSON with the fields of the behaviour to change; takes effect with the next request
GET /_stats          counters since the start
GET /_notices        the notices received, see `simulator.aggregators.notices`
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from datastreamx.clock import Clock, SystemClock
from simulator.aggregators.behaviour import Behaviour, Plan, decide, price_at
from simulator.aggregators.catalogue import Ad, Catalogue
from simulator.aggregators.dialects.contract import Ask, BadRequestError, Dialect, Offer, price_text
from simulator.aggregators.modes import MODES
from simulator.aggregators.modes.exchange import Exchange
from simulator.aggregators.modes.failures import CARELESS_PATH
from simulator.aggregators.notices import NOTICE_PATH, NoticeBook, notice_urls
from simulator.aggregators.stats import Stats

HOST = "127.0.0.1"
BID_PATH = "/bid"
CONTROL_PATH = "/_control"
STATS_PATH = "/_stats"
NOTICES_PATH = "/_notices"

_BACKLOG = 1_024
_MICROS = 1_000_000
_JSON_HEADERS = {"Content-Type": "application/json"}
# Requests that hang on purpose must not delay the end.
_SHUTDOWN_TIMEOUT_S = 0.1

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class AggregatorServer:
    """One aggregator. Lives on one event loop.

    Args:
        name: Goes into ad ids and draws: two aggregators with the same seed bid differently.
        dialect: What it speaks.
        seed: With name and auction id it decides every answer.
        behaviour: To begin with.
        clock: By which the mode `storm` comes and goes.

    Raises:
        ValueError: The behaviour has a mode that is unknown, or that the dialect has no words for.
    """

    def __init__(
        self, name: str, dialect: Dialect, seed: int, behaviour: Behaviour, clock: Clock | None = None
    ) -> None:
        check_mode(behaviour.mode, dialect)
        self.behaviour = behaviour
        self.stats = Stats()
        self.notices = NoticeBook(seed, name, self.stats)
        self._name = name
        self._dialect = dialect
        self._seed = seed
        self._clock = clock or SystemClock()
        self._started_s = self._clock.monotonic_s()
        self._url = ""
        self._catalogue = Catalogue(name)
        self._routes: dict[tuple[str, str], _Handler] = {
            ("GET", CONTROL_PATH): self._show_behaviour,
            ("POST", CONTROL_PATH): self._change_behaviour,
            ("GET", STATS_PATH): self._show_stats,
            ("GET", NOTICES_PATH): self._show_notices,
            **{(method, BID_PATH): self._bid for method in ("GET", "POST")},
            **{(method, NOTICE_PATH): self._notice for method in ("GET", "POST")},
            **{(method, CARELESS_PATH): self._careless for method in ("GET", "POST")},
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer any request."""
        handler = self._routes.get((request.method, request.path))
        if handler is None:
            served = ", ".join(sorted({path for _, path in self._routes}))
            return web.Response(status=404, text=f"only {served} are served\n")
        return await handler(request)

    @asynccontextmanager
    async def serving(self, port: int = 0, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
        """Serve on 127.0.0.1 within the context, by TLS if there is a context for it; yields the port.

        Raises:
            OSError: The port is taken.
        """
        # A bare server instead of an application: no routing, no middleware, no access log. And a handler is cancelled
        # when its client goes away, else the silent ones would pile up.
        server = web.Server(self.handle, access_log=None, handler_cancellation=True)
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_TIMEOUT_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, port, backlog=_BACKLOG, ssl_context=ssl_context).start()
            bound = int(runner.addresses[0][1])
            self._url = f"{'http' if ssl_context is None else 'https'}://{HOST}:{bound}"
            yield bound
        finally:
            await runner.cleanup()

    async def _bid(self, request: web.BaseRequest) -> web.StreamResponse:
        stats = self.stats
        stats.requests += 1
        stats.in_flight += 1
        try:
            return await self._answer(request)
        except (asyncio.CancelledError, ConnectionError):
            # Whoever writes step by step may hear of it by an error before the cancellation comes.
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
        stats.by_mode[plan.mode] = stats.by_mode.get(plan.mode, 0) + 1
        stats.told_box += ask.told_box
        stats.told_history += ask.told_history
        stats.told_consent += ask.told_consent
        any_offers, offers = self._offers(ask, plan, behaviour)
        exchange = Exchange(
            request=request,
            server_url=self._url,
            running_s=self._clock.monotonic_s() - self._started_s,
            ask=ask,
            plan=plan,
            behaviour=behaviour,
            dialect=self._dialect,
            offers=offers,
            any_offers=any_offers,
            stats=stats,
        )
        return await MODES[plan.mode](exchange)

    def _offers(self, ask: Ask, plan: Plan, behaviour: Behaviour) -> tuple[tuple[Offer, ...], tuple[Offer, ...]]:
        """All that it could offer, and of that what it wants to."""
        ads = self._catalogue.fill(
            plan.pick,
            ask.break_ms,
            longest_ms=ask.longest_ms,
            max_ads=ask.max_ads,
            last_ad=ask.last_ad,
            blocked=ask.blocked,
        )
        prices = [price_at(plan, place) for place in range(len(ads))]
        offers = tuple(self._offer(ask, ad, place, prices[place], behaviour) for place, ad in enumerate(ads))
        if not plan.wants_to_bid:
            return offers, ()
        if not behaviour.respects_floor or not ask.floor:
            return offers, offers
        floor_micros = ask.floor * _MICROS
        return offers, tuple(offer for offer, price in zip(offers, prices, strict=True) if price >= floor_micros)

    def _offer(self, ask: Ask, ad: Ad, place: int, price_micros: int, behaviour: Behaviour) -> Offer:
        bid_id = f"{self._name}-{ask.auction_id[:16]}"
        if place:
            bid_id = f"{bid_id}-{place}"
        return Offer(
            bid_id=bid_id,
            imp_id=ask.imp_id,
            price=price_text(price_micros),
            currency=behaviour.currency,
            creative=behaviour.creative,
            ad=ad,
            notice_urls=self._notice_urls(ask.auction_id, bid_id) if behaviour.notices else {},
        )

    def _notice_urls(self, auction_id: str, bid_id: str) -> dict[str, str]:
        return notice_urls(self.behaviour.notice_origin or self._url, auction_id, bid_id)

    async def _notice(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self.notices.receive(request.query, self.behaviour)

    async def _careless(self, _request: web.BaseRequest) -> web.StreamResponse:
        self.stats.careless += 1
        return web.Response(status=204)

    async def _show_behaviour(self, _request: web.BaseRequest) -> web.StreamResponse:
        return _json(self.behaviour)

    async def _show_stats(self, _request: web.BaseRequest) -> web.StreamResponse:
        return _json(self.stats)

    async def _show_notices(self, _request: web.BaseRequest) -> web.StreamResponse:
        return _json(self.notices.all())

    async def _change_behaviour(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            self.behaviour = changed(self.behaviour, await request.read(), self._dialect)
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        return _json(self.behaviour)


def changed(behaviour: Behaviour, body: bytes, dialect: Dialect) -> Behaviour:
    """The behaviour with the fields in `body`, a JSON object; fields that are not in it stay.

    Raises:
        ValueError: No JSON object, an unknown field or mode, or a value out of bounds.
    """
    fields = msgspec.json.decode(body, type=dict[str, object])
    new = msgspec.convert(msgspec.to_builtins(behaviour) | fields, Behaviour)
    check_mode(new.mode, dialect)
    return new


def check_mode(mode: str, dialect: Dialect) -> None:
    """Refuse a mode that there is not.

    Raises:
        ValueError: Says which there are.
    """
    known = [name for name in MODES if name not in dialect.cannot]
    if mode not in known:
        raise ValueError(f"unknown mode {mode!r}; known are {', '.join(known)}")


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), headers=_JSON_HEADERS)
