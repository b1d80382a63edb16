"""Which ads fill a break: the set that brings the most. Pure.

A multiple-choice knapsack: time and number of ads are limited, and of each advertiser's offers at most one is taken
(Kellerer, Pferschy and Pisinger, "Knapsack Problems", 2004, chapter 11). Solved by branch and bound over advertisers:
each one's offers are tried, then none of them. A branch is cut off when neither the fractional optimum of the
advertisers left, which time bounds, nor their highest prices, which the number of ads bounds, could beat the best set
so far.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from itertools import accumulate, pairwise

import msgspec

MAX_CANDIDATES = 32
"""Offers that are searched. Of more that could be part of an optimum, half are the best by price, half by price per
millisecond."""

MAX_STEPS = 1_023
"""Branches that are looked at, so ten offers are always searched to the end: they have no more. Beyond it the best set
so far is taken, which is never worse than taking what fits by price. A number of steps and no time limit, so that a
replay chooses the same ads."""

# Makes prices per millisecond integers, and any two that differ still differ: they do so by at least 1 over the square
# of the longest break, a day.
_SCALE = 1 << 60


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """An offer, as far as the choice depends on it.

    Attributes:
        price_micros: Above zero.
        duration_ms: Above zero; `None` when it was not told.
        advertiser: Offers of the same one exclude each other; `None` excludes nobody.
        rank: Among equal prices the higher goes first; no two candidates may have the same.
    """

    price_micros: int
    duration_ms: int | None
    advertiser: str | None
    rank: tuple[bytes, int]


def choose(candidates: Sequence[Candidate], *, slot_ms: int, max_ads: int, unknown_ms: int) -> list[int]:
    """The places in `candidates` of the ads to display, in the order of display: by price, then by rank.

    No other set brings more, if `MAX_CANDIDATES` and `MAX_STEPS` are not exceeded; either way the ads fit, and the
    choice does not depend on the order of the candidates.

    Args:
        candidates: Offers that may win.
        slot_ms: Length of the break, above zero.
        max_ads: Most ads in it.
        unknown_ms: Assumed length of an ad that does not tell; at most the break's, so that it can run alone.
    """
    assumed_ms = min(unknown_ms, slot_ms)
    items = [
        _Item(candidate.price_micros, candidate.rank, candidate.duration_ms or assumed_ms, candidate.advertiser, place)
        for place, candidate in enumerate(candidates)
    ]
    items = [item for item in items if item.duration_ms <= slot_ms]
    items.sort(key=_by_price, reverse=True)
    if max_ads == 1 or len(items) <= 1:
        return [item.place for item in items[:1]]
    most = min(max_ads, slot_ms // min(item.duration_ms for item in items))
    needed = _undominated(items, most)
    chosen = _Search(_trimmed(needed), slot_ms, most).best(_greedy(needed, slot_ms, most))
    return [item.place for item in sorted(chosen, key=_by_price, reverse=True)]


class _Item(msgspec.Struct, frozen=True, gc=False):
    price_micros: int
    rank: tuple[bytes, int]
    duration_ms: int
    advertiser: str | None
    place: int


def _by_price(item: _Item) -> tuple[int, tuple[bytes, int]]:
    return item.price_micros, item.rank


def _by_density(item: _Item) -> tuple[int, int, tuple[bytes, int]]:
    return item.price_micros * _SCALE // item.duration_ms, item.price_micros, item.rank


def _undominated(items: list[_Item], max_ads: int) -> list[_Item]:
    """Those that an optimum may need; `items` come by price, highest first.

    An offer is not needed if its advertiser has one that is neither cheaper nor longer, or if `max_ads` different
    advertisers have: in a set with the offer, at least one of these is free to take its place.
    """
    kept: list[_Item] = []
    shortest_ms: dict[str, int] = {}
    durations_ms: list[int] = []
    for item in items:
        own_ms = shortest_ms.get(item.advertiser) if item.advertiser is not None else None
        if own_ms is not None and own_ms <= item.duration_ms:
            continue
        if bisect_right(durations_ms, item.duration_ms) >= max_ads:
            continue
        kept.append(item)
        if own_ms is not None:
            del durations_ms[bisect_left(durations_ms, own_ms)]
        insort(durations_ms, item.duration_ms)
        if item.advertiser is not None:
            shortest_ms[item.advertiser] = item.duration_ms
    return kept


def _greedy(items: list[_Item], slot_ms: int, max_ads: int) -> tuple[_Item, ...]:
    """What fits, taken in the order of `items`."""
    taken: list[_Item] = []
    advertisers: set[str] = set()
    left_ms = slot_ms
    for item in items:
        if item.duration_ms <= left_ms and item.advertiser not in advertisers:
            taken.append(item)
            left_ms -= item.duration_ms
            if item.advertiser is not None:
                advertisers.add(item.advertiser)
            if len(taken) == max_ads:
                break
    return tuple(taken)


def _trimmed(items: list[_Item]) -> list[_Item]:
    """At most `MAX_CANDIDATES` of `items`, which come by price; the result comes by price per millisecond."""
    by_density = sorted(items, key=_by_density, reverse=True)
    if len(items) <= MAX_CANDIDATES:
        return by_density
    places = {item.place for item in items[: MAX_CANDIDATES // 2]}
    for item in by_density:
        if len(places) == MAX_CANDIDATES:
            break
        places.add(item.place)
    return [item for item in by_density if item.place in places]


class _Parts(msgspec.Struct, frozen=True):
    """Offers of some advertisers cut into parts, the highest price per millisecond first: `_hull` of each.

    Attributes:
        prices: Of each part.
        durations: Likewise.
        prices_before: Sum of the prices before each part, and of all.
        durations_before: Likewise.
    """

    prices: list[int]
    durations: list[int]
    prices_before: list[int]
    durations_before: list[int]


class _Search:
    """One search; `items` come by price per millisecond, highest first."""

    def __init__(self, items: list[_Item], slot_ms: int, max_ads: int) -> None:
        self._slot_ms = slot_ms
        self._max_ads = max_ads
        self._groups = _groups(items)
        self._parts = _parts_left(self._groups)
        self._highest = _highest_sums([max(item.price_micros for item in group) for group in self._groups], max_ads)
        self._steps = 0
        self._best_micros = 0
        self._best: tuple[_Item, ...] = ()

    def best(self, known: tuple[_Item, ...]) -> tuple[_Item, ...]:
        """The best set that was found, `known` if none is better."""
        self._best_micros, self._best = sum(item.price_micros for item in known), known
        self._visit(0, self._slot_ms, 0, ())
        return self._best

    def _visit(self, group: int, left_ms: int, micros: int, taken: tuple[_Item, ...]) -> None:
        """Look at all sets that hold `taken` and some of the groups from `group` on."""
        if micros > self._best_micros:
            self._best_micros, self._best = micros, taken
        ads_left = self._max_ads - len(taken)
        while group < len(self._groups) and ads_left and self._steps < MAX_STEPS:
            self._steps += 1
            if micros + self._bound(group, left_ms, ads_left) <= self._best_micros:
                return
            for item in self._groups[group]:
                if item.duration_ms <= left_ms:
                    self._visit(group + 1, left_ms - item.duration_ms, micros + item.price_micros, (*taken, item))
            group += 1

    def _bound(self, group: int, left_ms: int, ads_left: int) -> int:
        """No set of the groups from `group` on brings more in this time and number."""
        parts = self._parts[group]
        end = bisect_right(parts.durations_before, left_ms) - 1
        by_time = parts.prices_before[end]
        if end < len(parts.prices):
            # As much of the next part as still fits, rounded down: sums of prices are integers.
            by_time += (left_ms - parts.durations_before[end]) * parts.prices[end] // parts.durations[end]
        return min(self._highest[group][ads_left], by_time)


def _groups(items: list[_Item]) -> list[list[_Item]]:
    """Offers that exclude each other, together; in the order of `items`."""
    groups: list[list[_Item]] = []
    by_advertiser: dict[str, list[_Item]] = {}
    for item in items:
        group = by_advertiser.get(item.advertiser) if item.advertiser is not None else None
        if group is not None:
            group.append(item)
            continue
        groups.append([item])
        if item.advertiser is not None:
            by_advertiser[item.advertiser] = groups[-1]
    return groups


def _parts_left(groups: list[list[_Item]]) -> list[_Parts]:
    """For every group, the parts of it and of all that follow."""
    found: list[_Parts] = []
    parts: list[tuple[int, int, int]] = []
    for group in reversed(groups):
        parts = sorted((*parts, *_hull(group)), reverse=True)
        prices = [price for _, price, _ in parts]
        durations = [duration for _, _, duration in parts]
        found.append(
            _Parts(prices, durations, list(accumulate(prices, initial=0)), list(accumulate(durations, initial=0)))
        )
    return found[::-1]


def _hull(group: list[_Item]) -> list[tuple[int, int, int]]:
    """Upper concave hull of price over duration, from nothing through the offers of one advertiser.

    Its parts, as (scaled price per millisecond, price, duration): taking them in this order and in any fraction is
    worth at least as much as any one of the offers in the same time.
    """
    corners = [(0, 0)]
    for duration_ms, price in sorted((item.duration_ms, item.price_micros) for item in group):
        while len(corners) > 1 and _is_below(corners[-2], corners[-1], (duration_ms, price)):
            corners.pop()
        corners.append((duration_ms, price))
    parts = [(end[1] - start[1], end[0] - start[0]) for start, end in pairwise(corners)]
    return [(price * _SCALE // duration_ms, price, duration_ms) for price, duration_ms in parts]


def _is_below(start: tuple[int, int], middle: tuple[int, int], end: tuple[int, int]) -> bool:
    """Whether `middle` lies on or below the line from `start` to `end`."""
    return (middle[1] - start[1]) * (end[0] - start[0]) <= (end[1] - start[1]) * (middle[0] - start[0])


def _highest_sums(prices: list[int], max_ads: int) -> list[list[int]]:
    """For every place, the sums of the 0, 1, ... `max_ads` highest prices from there on."""
    sums: list[list[int]] = []
    highest: list[int] = []
    for price in reversed(prices):
        insort(highest, -price)
        del highest[max_ads:]
        found = [-total for total in accumulate(highest, initial=0)]
        sums.append(found + found[-1:] * (max_ads + 1 - len(found)))
    return sums[::-1]
