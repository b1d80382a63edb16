"""The ads that an aggregator sells."""

from __future__ import annotations

from bisect import bisect_right

import msgspec

_BRANDS = (
    "kestrel-coffee",
    "alder-bank",
    "northlight-cars",
    "bluefin-travel",
    "harbor-insurance",
    "maple-grocers",
    "orbit-mobile",
    "quince-cosmetics",
    "ridge-outdoor",
    "saffron-kitchens",
    "tern-airlines",
    "willow-furniture",
)
_LENGTHS_S = (10, 15, 20, 30)


class Ad(msgspec.Struct, frozen=True, kw_only=True):
    """One creative."""

    ad_id: str
    advertiser_domain: str
    duration_ms: int
    url: str


class Catalogue:
    """The ads of one aggregator: every brand in every usual length."""

    def __init__(self, aggregator: str) -> None:
        # Shortest first, so that the ads that fit a slot are the head of the list.
        self._ads = tuple(_ad(aggregator, brand, length_s) for length_s in _LENGTHS_S for brand in _BRANDS)
        self._durations = tuple(ad.duration_ms for ad in self._ads)

    def choose(self, pick: float, slot_ms: int, last_ad: str | None) -> Ad | None:
        """An ad that fits the slot and was not displayed last; `None` if the slot is too short for all.

        Args:
            pick: Number in [0, 1) that makes the choice.
            slot_ms: No longer ad is chosen.
            last_ad: Not chosen again, if another fits.
        """
        fitting = bisect_right(self._durations, slot_ms)
        if fitting == 0:
            return None
        index = int(pick * fitting)
        if self._ads[index].ad_id == last_ad:
            index = (index + 1) % fitting
        return self._ads[index]


def _ad(aggregator: str, brand: str, length_s: int) -> Ad:
    ad_id = f"{aggregator}-{brand}-{length_s}s"
    return Ad(
        ad_id=ad_id,
        advertiser_domain=f"{brand}.example",
        duration_ms=length_s * 1_000,
        url=f"https://cdn.{aggregator}.example/{ad_id}.xml",
    )
