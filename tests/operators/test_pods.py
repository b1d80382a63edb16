from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import pytest

from operators.bidding import pods
from operators.bidding.pods import MAX_CANDIDATES, Candidate, choose

SLOT_MS = 60_000
UNKNOWN_MS = 30_000


def candidate(price: int, duration_ms: int | None = 15_000, advertiser: str | None = None, rank: int = 0) -> Candidate:
    return Candidate(price, duration_ms, advertiser, (rank.to_bytes(8, "big"), 0))


def pick(candidates: list[Candidate], **changes: Any) -> list[int]:
    return choose(candidates, **{"slot_ms": SLOT_MS, "max_ads": 6, "unknown_ms": UNKNOWN_MS, **changes})


def value(candidates: list[Candidate], chosen: list[int]) -> int:
    return sum(candidates[index].price_micros for index in chosen)


def fits(candidates: list[Candidate], chosen: tuple[int, ...] | list[int], slot_ms: int, max_ads: int) -> bool:
    ads = [candidates[index] for index in chosen]
    advertisers = [ad.advertiser for ad in ads if ad.advertiser is not None]
    time_ms = sum(min(UNKNOWN_MS, slot_ms) if ad.duration_ms is None else ad.duration_ms for ad in ads)
    return time_ms <= slot_ms and len(ads) <= max_ads and len(set(advertisers)) == len(advertisers)


def brute_force(candidates: list[Candidate], slot_ms: int, max_ads: int) -> int:
    return max(
        value(candidates, list(some))
        for size in range(min(max_ads, len(candidates)) + 1)
        for some in combinations(range(len(candidates)), size)
        if fits(candidates, some, slot_ms, max_ads)
    )


def drawn(random_: random.Random, count: int, *, round_durations: bool) -> list[Candidate]:
    advertisers = [None, *(f"adv{number}" for number in range(random_.randrange(1, 8)))]
    return [
        Candidate(
            random_.randrange(1, random_.choice([4, 30, 10_000_000])),
            random_.choice([10_000, 15_000, 30_000, 60_000, None])
            if round_durations
            else random_.randrange(1, SLOT_MS + 10_000),
            random_.choice(advertisers),
            (random_.randbytes(8), -number),
        )
        for number in range(count)
    ]


def test_break_is_filled_with_what_brings_the_most_together() -> None:
    long_and_dear = candidate(10, 60_000)
    halves = [candidate(6, 30_000), candidate(5, 30_000)]
    assert pick([long_and_dear, *halves]) == [1, 2]
    assert pick([long_and_dear, candidate(5, 30_000), candidate(4, 30_000)]) == [0]


def test_no_more_ads_than_allowed() -> None:
    assert pick([candidate(price) for price in (1, 4, 2, 3)], max_ads=2) == [1, 3]


def test_single_slot_takes_the_highest_price_however_short_the_others_are() -> None:
    assert pick([candidate(5, 5_000), candidate(6, 60_000), candidate(7, 60_001)], max_ads=1) == [1]


def test_advertiser_has_one_ad_in_a_break() -> None:
    acme = [candidate(9, advertiser="acme"), candidate(8, advertiser="acme")]
    assert pick([*acme, candidate(1, advertiser="other")]) == [0, 2]


def test_cheaper_but_shorter_ad_of_an_advertiser_is_taken_if_that_makes_room() -> None:
    acme = [candidate(10, 60_000, "acme"), candidate(9, 30_000, "acme")]
    assert pick([*acme, candidate(5, 30_000, "other")]) == [1, 2]


def test_unknown_advertisers_do_not_exclude_each_other() -> None:
    assert pick([candidate(2), candidate(1)]) == [0, 1]


def test_ad_of_unknown_length_counts_as_a_standard_slot() -> None:
    assert len(pick([candidate(1, None, rank=number) for number in range(4)])) == 2


def test_ad_of_unknown_length_can_run_alone_in_a_shorter_break() -> None:
    assert pick([candidate(1, None)], slot_ms=20_000) == [0]
    assert pick([candidate(1, None), candidate(2, 1_000)], slot_ms=20_000) == [1]


def test_too_long_an_ad_is_never_taken() -> None:
    assert pick([candidate(99, SLOT_MS + 1), candidate(1)]) == [1]


def test_nothing_offered_nothing_chosen() -> None:
    assert pick([]) == []


def test_order_of_display_is_by_price_then_by_rank() -> None:
    chosen = pick([candidate(1, rank=1), candidate(3, rank=2), candidate(1, rank=3)])
    assert chosen == [1, 2, 0]


def test_equal_prices_are_settled_by_rank() -> None:
    assert pick([candidate(5, rank=1), candidate(5, rank=2)], max_ads=1) == [1]
    assert pick([candidate(5, 60_000, rank=1), candidate(5, 60_000, rank=2)]) == [1]


@pytest.mark.parametrize("seed", range(300))
def test_up_to_ten_offers_no_set_brings_more(seed: int) -> None:
    random_ = random.Random(seed)
    candidates = drawn(random_, random_.randrange(1, 11), round_durations=seed % 2 == 0)
    max_ads = random_.randrange(1, 7)
    chosen = pick(candidates, max_ads=max_ads)
    assert fits(candidates, chosen, SLOT_MS, max_ads), (seed, candidates, chosen)
    assert value(candidates, chosen) == brute_force(candidates, SLOT_MS, max_ads), (seed, max_ads, candidates, chosen)


@pytest.mark.parametrize("seed", range(40))
def test_knapsack_of_equal_prices_per_millisecond_is_solved_too(seed: int) -> None:
    random_ = random.Random(seed)
    candidates = [
        candidate(duration_ms * 7, duration_ms, rank=number)
        for number, duration_ms in enumerate(random_.randrange(5_001, 40_000) for _ in range(10))
    ]
    assert value(candidates, pick(candidates)) == brute_force(candidates, SLOT_MS, 6), (seed, candidates)


@pytest.mark.parametrize("seed", range(30))
def test_offers_that_no_optimum_needs_are_left_out_without_loss(seed: int) -> None:
    # As many as a busy break has, of usual lengths, so few are left after that and the search ends.
    random_ = random.Random(seed)
    candidates = [
        Candidate(
            random_.randrange(1, 1_000_000),
            random_.choice([15_000, 30_000]),
            random_.choice([None, *(f"adv{number}" for number in range(6))]),
            (random_.randbytes(8), -number),
        )
        for number in range(16)
    ]
    chosen = pick(candidates, max_ads=3)
    assert value(candidates, chosen) == brute_force(candidates, SLOT_MS, 3), (seed, candidates, chosen)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("count", [8, 100])
def test_choice_does_not_depend_on_the_order_of_the_offers(seed: int, count: int) -> None:
    random_ = random.Random(seed)
    candidates = drawn(random_, count, round_durations=seed % 2 == 0)
    shuffled = random_.sample(candidates, count)
    here = [candidates[index] for index in pick(candidates)]
    there = [shuffled[index] for index in pick(shuffled)]
    assert here == there, (seed, candidates)


@pytest.mark.parametrize("seed", range(20))
def test_beyond_its_bounds_the_choice_still_fits_and_beats_taking_what_fits_by_price(seed: int) -> None:
    random_ = random.Random(seed)
    durations = [random_.randrange(5_001, 60_000) for _ in range(320)]
    candidates = [
        Candidate(duration_ms * 100 + random_.randrange(100), duration_ms, None, (random_.randbytes(8), -number))
        for number, duration_ms in enumerate(durations)
    ]
    chosen = pick(candidates, slot_ms=180_000, max_ads=16)
    assert fits(candidates, chosen, 180_000, 16)
    left_ms, greedy = 180_000, 0
    for ad in sorted(candidates, key=lambda one: one.price_micros, reverse=True):
        if ad.duration_ms is not None and ad.duration_ms <= left_ms:
            left_ms, greedy = left_ms - ad.duration_ms, greedy + ad.price_micros
    assert value(candidates, chosen) >= greedy, seed


def test_search_is_bounded_in_candidates_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[pods._Search] = []

    class Watched(pods._Search):
        def __init__(self, items: list[pods._Item], slot_ms: int, max_ads: int) -> None:
            super().__init__(items, slot_ms, max_ads)
            searches.append(self)

    monkeypatch.setattr(pods, "_Search", Watched)
    random_ = random.Random(0)
    # Subset sums that hit nothing exactly are what branch and bound is slowest at.
    durations = [random_.randrange(5_001, 60_000) for _ in range(320)]
    candidates = [candidate(one * 100, one, rank=number) for number, one in enumerate(durations)]
    pick(candidates, slot_ms=180_000, max_ads=16)
    assert len(searches) == 1
    assert sum(map(len, searches[0]._groups)) <= MAX_CANDIDATES
    assert 0 < searches[0]._steps <= pods.MAX_STEPS
