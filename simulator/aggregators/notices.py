"""What the aggregator is told about its bids, by the addresses that it wrote into them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import quote

import msgspec
from aiohttp import web

from simulator.aggregators.behaviour import Behaviour, draws
from simulator.aggregators.stats import Stats

NOTICE_PATH = "/notice"
EVENTS = ("win", "loss", "billing")
MAX_NOTICES = 100_000
"""Notices remembered, some 60 MB; of more the oldest are forgotten, and a repeat of such a one counts as new."""

_MACROS = "price=${AUCTION_PRICE}&loss=${AUCTION_LOSS}&min=${AUCTION_MIN_TO_WIN}"


class Notice(msgspec.Struct, array_like=True):
    """One event of one bid: `[event, auction, bid, price, count, loss, min]` on the wire.

    Attributes:
        price: As the last notice told it, macros substituted by the sender; likewise `loss` and `min`.
        count: How often it was accepted; 0 if every attempt was refused.
        loss: OpenRTB loss reason code.
        min: Price that would have won.
    """

    event: str
    auction: str
    bid: str
    price: str
    count: int = 0
    loss: str = ""
    min: str = ""


class NoticeBook:
    """Accepts or refuses notices as the behaviour says, and remembers them.

    Args:
        seed: With name and notice it decides what the mode `flaky` refuses.
        name: Of the aggregator.
        stats: Counters to keep.
    """

    def __init__(self, seed: int, name: str, stats: Stats) -> None:
        self._seed = seed
        self._name = name
        self._stats = stats
        self._attempts: dict[tuple[str, str, str], int] = {}
        self._notices: dict[tuple[str, str, str], Notice] = {}

    def all(self) -> list[Notice]:
        """What was received, in the order of the first attempts."""
        return list(self._notices.values())

    async def receive(self, query: Mapping[str, str], behaviour: Behaviour) -> web.Response:
        """Answer one notice; the mode `silent` never returns."""
        try:
            event, auction, bid = key = (query["event"], query["auction"], query["bid"])
        except KeyError as error:
            return web.Response(status=400, text=f"a notice needs {error}\n")
        if event not in EVENTS:
            return web.Response(status=400, text=f"event is {event!r}, it must be one of {', '.join(EVENTS)}\n")
        notice = self._notices.get(key)
        if notice is None:
            notice = self._notices[key] = Notice(event, auction, bid, "")
            self._forget_oldest()
        notice.price, notice.loss, notice.min = (query.get(name, "") for name in ("price", "loss", "min"))
        attempt = self._attempts[key] = self._attempts.get(key, 0) + 1
        if self._refuses(behaviour, (*key, attempt)):
            self._stats.notices_refused += 1
            if behaviour.notice_mode == "silent":
                await asyncio.Event().wait()
            return web.Response(status=500, text="internal error")
        self._stats.notices[event] = self._stats.notices.get(event, 0) + 1
        self._stats.notice_repeats += notice.count > 0
        notice.count += 1
        return web.Response(status=204)

    def _refuses(self, behaviour: Behaviour, attempt: tuple[object, ...]) -> bool:
        if behaviour.notice_mode != "flaky":
            return behaviour.notice_mode != "ok"
        (chance,) = draws(1, self._seed, self._name, *attempt)
        return chance < behaviour.notice_failures

    def _forget_oldest(self) -> None:
        if len(self._notices) > MAX_NOTICES:
            oldest = next(iter(self._notices))
            del self._notices[oldest]
            self._attempts.pop(oldest, None)


def notice_urls(server_url: str, auction_id: str, bid_id: str) -> dict[str, str]:
    """Address by event, macros for the sender to substitute (OpenRTB 2.6, 4.4)."""
    bid = f"auction={quote(auction_id, safe='')}&bid={quote(bid_id, safe='')}"
    return {event: f"{server_url}{NOTICE_PATH}?event={event}&{bid}&{_MACROS}" for event in EVENTS}
