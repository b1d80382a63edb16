"""The ads that an aggregator sells."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection

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
# From ad to ad of a break, so that neither brands nor lengths follow each other in the order of the list.
_STRIDE = 5


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

    def choose(self, pick: float, slot_ms: int, last_ad: str | None, blocked: Collection[str] = ()) -> Ad | None:
        """An ad that fits the slot, was not displayed last and is not blocked; `None` if there is none.

        Args:
            pick: Number in [0, 1) that makes the choice.
            slot_ms: No longer ad is chosen.
            last_ad: Not chosen again.
            blocked: Domains of advertisers that are not chosen.
        """
        fitting = bisect_right(self._durations, slot_ms)
        index = int(pick * fitting)
        for step in range(fitting):
            ad = self._ads[(index + step) % fitting]
            if ad.advertiser_domain not in blocked and ad.ad_id != last_ad:
                return ad
        return None

    def fill(  # noqa: PLR0913  what limits a break
        self,
        pick: float,
        break_ms: int,
        *,
        longest_ms: int,
        max_ads: int,
        last_ad: str | None,
        blocked: Collection[str],
    ) -> list[Ad]:
        """Ads for a break, best first: together within it, of one advertiser each.

        Args:
            pick: As in `choose`; the first ad is the one that would be chosen for a slot of `longest_ms`.
            break_ms: Length of the break.
            longest_ms: Longest single ad.
            max_ads: Most ads.
            last_ad: Not among them.
            blocked: Domains of advertisers that are not among them.
        """
        ads: list[Ad] = []
        taken = set(blocked)
        left_ms = break_ms
        while len(ads) < max_ads:
            stride = len(ads) * _STRIDE / len(self._ads)
            ad = self.choose((pick + stride) % 1.0, min(left_ms, longest_ms), last_ad, taken)
            if ad is None:
                break
            ads.append(ad)
            taken.add(ad.advertiser_domain)
            left_ms -= ad.duration_ms
        return ads


def _ad(aggregator: str, brand: str, length_s: int) -> Ad:
    ad_id = f"{aggregator}-{brand}-{length_s}s"
    return Ad(
        ad_id=ad_id,
        advertiser_domain=f"{brand}.example",
        duration_ms=length_s * 1_000,
        url=f"https://cdn.{aggregator}.example/{ad_id}.xml",
    )
