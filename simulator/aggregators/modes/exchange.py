"""One request on its way to an answer, as the modes see it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from simulator.aggregators.behaviour import Behaviour, Plan
from simulator.aggregators.dialects.contract import Ask, Dialect, Offer
from simulator.aggregators.stats import Stats

# What the event loop cannot tell from nothing; a timer for it would only cost.
_NO_TIME_MS = 0.1


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One request, and all that is needed to answer it.

    Attributes:
        server_url: Address of this server.
        running_s: For how long the server has been running.
        offers: What it bids; empty when it declines.
        any_offers: What it would bid if it had to; for modes that spoil a bid. Empty only if no ad fits the slot.
    """

    request: web.BaseRequest
    server_url: str
    running_s: float
    ask: Ask
    plan: Plan
    behaviour: Behaviour
    dialect: Dialect
    offers: tuple[Offer, ...]
    any_offers: tuple[Offer, ...]
    stats: Stats

    async def wait(self, extra_ms: float = 0.0) -> None:
        """Let the planned latency pass."""
        wait_ms = self.plan.latency_ms + extra_ms
        if wait_ms >= _NO_TIME_MS:
            await asyncio.sleep(wait_ms / 1_000)

    def honest(self) -> web.Response:
        """The answer of a sound aggregator; counts it."""
        if not self.offers:
            self.stats.no_bids += 1
            return self.no_bid()
        self.stats.bids += 1
        self.stats.ads += len(self.offers)
        return self.answer(self.dialect.write(self.ask, self.offers))

    def some_bid(self, spoil: Callable[[Offer], Offer] | None = None) -> bytes | None:
        """A bid even where it would decline, with every offer spoilt; `None` if no ad fits the slot."""
        offers = self.any_offers if spoil is None else tuple(map(spoil, self.any_offers))
        return self.dialect.write(self.ask, offers) if offers else None

    def answer(self, body: bytes | None) -> web.Response:
        """200 with a document; without one a no-bid."""
        if body is None:
            return self.no_bid()
        return web.Response(body=body, headers=self.dialect.format.headers)

    def no_bid(self) -> web.Response:
        """What the dialect says when it has no bid."""
        if self.dialect.no_bid is None:
            return web.Response(status=204)
        return web.Response(body=self.dialect.no_bid, headers=self.dialect.format.headers)

    def cut(self) -> None:
        """End the connection as a crash of the aggregator would."""
        if self.request.transport is not None:
            self.request.transport.abort()


Mode = Callable[[Exchange], Awaitable[web.StreamResponse]]
