"""Why a sound bid is refused all the same: terms of the request that only this dialect knows.

The auction itself judges floor, currency, duration, creative hosts and the first advertiser domain, the same for every
dialect. Here is what a `Bid` has no field for.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from aggregators.contract import ReplyError
from aggregators.money import micros_of
from aggregators.openrtb.messages import BidMessage, DurationFloor
from aggregators.openrtb.options import OpenRtbOptions
from aggregators.replies import domain_of
from datastreamx.hosts import in_domains
from datastreamx.model.auction import Outcome

_ANY_PLACE = 0
_DEFAULT_TAXONOMY = 1


class AskedVideo(msgspec.Struct, frozen=True):
    """`maxseq` is there for a pod alone."""

    maxseq: int | None = None


class AskedImp(msgspec.Struct, frozen=True):
    """An impression of our own request."""

    id: str
    video: AskedVideo = AskedVideo()


class Asked(msgspec.Struct, frozen=True):
    """What of our own request is needed to judge the reply."""

    id: str
    imp: list[AskedImp]
    cur: list[str] = []
    badv: list[str] = []


class Objections:
    """Terms of one aggregator.

    Args:
        options: Of the adapter.
        advertisers: Domains that this aggregator must not offer, lower case.
        categories: Codes likewise.
        floors: By duration.
    """

    def __init__(
        self,
        options: OpenRtbOptions,
        advertisers: frozenset[str],
        categories: Sequence[str],
        floors: Sequence[DurationFloor],
    ) -> None:
        self._options = options
        self._advertisers = advertisers
        self._categories = tuple(categories)
        self._floors = tuple((floor.mindur, floor.maxdur, micros_of(str(floor.bidfloor).encode())) for floor in floors)
        per_second = options.floor_per_second
        self._micros_per_second = None if per_second is None else micros_of(per_second.encode())

    def raise_any(
        self, bid: BidMessage, asked: Asked, price_micros: int, currency: str, duration_ms: int | None
    ) -> None:
        """The first objection to a bid, if there is one.

        Raises:
            ReplyError: `ADVERTISER_BLOCKED`, `CREATIVE_REJECTED` (a blocked category: the advertiser may come back
                with another ad), `UNSUITABLE` (expires too soon, or wants a certain place in the break) or
                `BELOW_FLOOR`.
        """
        self._advertiser(bid, asked)
        self._category(bid)
        expiry_s = self._options.expiry_s
        if expiry_s is not None and bid.exp and bid.exp < expiry_s:
            raise ReplyError(
                Outcome.UNSUITABLE, f"expires after {bid.exp} s, ads are displayed up to {expiry_s} s later"
            )
        is_pod = any(imp.id == bid.impid and imp.video.maxseq is not None for imp in asked.imp)
        if is_pod and bid.slotinpod not in {None, _ANY_PLACE}:
            raise ReplyError(Outcome.UNSUITABLE, f"wants place {bid.slotinpod} of the break; none was promised")
        if duration_ms is not None and asked.cur == [currency]:
            self._floor(price_micros, duration_ms, is_pod=is_pod)

    def _advertiser(self, bid: BidMessage, asked: Asked) -> None:
        for position, name in enumerate(bid.adomain or ()):
            # The auction knows the first domain and what is blocked everywhere.
            blocked = self._advertisers if position == 0 else frozenset(asked.badv)
            domain = domain_of(name)
            if domain is not None and in_domains(domain, blocked):
                raise ReplyError(Outcome.ADVERTISER_BLOCKED, f"advertiser {domain[:80]} is blocked")

    def _category(self, bid: BidMessage) -> None:
        if (bid.cattax or _DEFAULT_TAXONOMY) != (self._options.category_taxonomy or _DEFAULT_TAXONOMY):
            return
        for code in bid.cat or ():
            # `IAB25-3` is a part of `IAB25`.
            if code in self._categories or code.partition("-")[0] in self._categories:
                raise ReplyError(Outcome.CREATIVE_REJECTED, f"category {code[:40]} is blocked")

    def _floor(self, price_micros: int, duration_ms: int, *, is_pod: bool) -> None:
        # The ranges are of whole seconds, and nothing may fall between two of them.
        seconds = -(-duration_ms // 1_000)
        floors = [micros for shortest, longest, micros in self._floors if shortest <= seconds <= longest]
        if is_pod and self._micros_per_second is not None:
            floors.append(self._micros_per_second * duration_ms // 1_000)
        if floors and price_micros < max(floors):
            raise ReplyError(
                Outcome.BELOW_FLOOR, f"{price_micros} micros for {duration_ms} ms, {max(floors)} were asked for"
            )
