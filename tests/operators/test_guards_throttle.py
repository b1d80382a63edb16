from __future__ import annotations

import random

import pytest

from operators.bidding.bulkhead import Bulkhead
from operators.bidding.throttle import Throttle

AUCTIONS = 4_000


def _admitted(throttle: Throttle, prefix: str = "auction") -> float:
    return sum(throttle.admits(f"{prefix}-{number}") for number in range(AUCTIONS)) / AUCTIONS


def _after(*scores: tuple[bool, int], mode: str = "on") -> Throttle:
    throttle = Throttle("alpha", mode)  # type: ignore[arg-type]
    for ok, times in scores:
        for _ in range(times):
            throttle.record(ok)
    return throttle


def test_a_fresh_throttle_admits_everything() -> None:
    throttle = Throttle("alpha", "on")
    assert (throttle.health, throttle.share) == (1.0, 1.0)
    assert _admitted(throttle) == 1.0


def test_a_thousand_failures_leave_only_probes() -> None:
    throttle = _after((False, 1_000))
    assert throttle.share == pytest.approx(0.1)
    assert 0.05 < _admitted(throttle) <= 0.15


def test_a_dead_aggregator_gets_probes_for_ever() -> None:
    throttle = _after((False, 100_000))
    assert throttle.share == pytest.approx(0.1)
    assert _admitted(throttle) > 0.05


def test_a_thousand_successes_restore_a_dead_aggregator() -> None:
    throttle = _after((False, 100_000), (True, 1_000))
    assert throttle.share >= 0.95
    assert _admitted(throttle) >= 0.95


@pytest.mark.parametrize("seed", range(5))
def test_goals_hold_when_only_admitted_calls_are_scored(seed: int) -> None:
    """As in production: what is throttled teaches nothing, so recovery has to come from the probes alone."""
    generator = random.Random(seed)
    throttle = Throttle("alpha", "on")

    def offer_until(calls: int, *, ok: bool) -> None:
        made = 0
        while made < calls:
            if throttle.admits(f"{generator.getrandbits(128):032x}"):
                throttle.record(ok)
                made += 1

    offer_until(1_000, ok=False)
    assert _admitted(throttle) <= 0.15, f"seed {seed}"
    offer_until(1_000, ok=True)
    assert _admitted(throttle) >= 0.95, f"seed {seed}"


@pytest.mark.parametrize("seed", range(5))
def test_an_aggregator_that_fails_a_third_of_its_calls_keeps_all_of_them(seed: int) -> None:
    generator = random.Random(seed)
    throttle = Throttle("alpha", "on")
    lowest = 1.0
    for _ in range(5_000):
        throttle.record(generator.random() > 1 / 3)
        lowest = min(lowest, throttle.share)
    assert lowest == 1.0, f"seed {seed}"


def test_between_ill_and_healthy_the_share_falls_with_the_health() -> None:
    throttle = Throttle("alpha", "on")
    shares = []
    while throttle.health > 0.15:
        throttle.record(ok=False)
        shares.append((throttle.health, throttle.share))
    assert shares == sorted(shares, reverse=True)
    assert all(share == 1.0 for health, share in shares if health >= 0.5)
    assert all(share == pytest.approx(0.1) for health, share in shares if health <= 0.2)
    middle = next(share for health, share in shares if health <= 0.35)
    assert middle == pytest.approx(0.55, abs=0.01)


def test_the_same_auction_gets_the_same_answer() -> None:
    first, second = _after((False, 300)), _after((False, 300))
    answers = [first.admits(f"a{number}") for number in range(500)]
    assert answers == [second.admits(f"a{number}") for number in range(500)]
    assert True in answers
    assert False in answers


def test_who_is_admitted_when_ill_is_admitted_when_better() -> None:
    ill, better = _after((False, 400)), _after((False, 300))
    assert ill.share < better.share < 1
    admitted = [f"a{number}" for number in range(AUCTIONS) if ill.admits(f"a{number}")]
    assert admitted
    assert all(better.admits(auction) for auction in admitted)


def test_aggregators_are_throttled_in_different_auctions() -> None:
    alpha, beta = Throttle("alpha", "on"), Throttle("beta", "on")
    for _ in range(1_000):
        alpha.record(ok=False)
        beta.record(ok=False)
    both = sum(alpha.admits(f"a{number}") and beta.admits(f"a{number}") for number in range(AUCTIONS))
    assert both / AUCTIONS == pytest.approx(0.01, abs=0.01)


def test_simulation_admits_everything_and_tells_what_it_would_do() -> None:
    throttle = _after((False, 1_000), mode="simulate")
    assert throttle.share == 1.0
    assert _admitted(throttle) == 1.0
    assert throttle.simulated_share == pytest.approx(0.1)
    assert throttle.health < 0.05


def test_switched_off_it_admits_everything() -> None:
    throttle = _after((False, 1_000), mode="off")
    assert throttle.share == 1.0
    assert _admitted(throttle) == 1.0


def test_a_full_bulkhead_refuses_at_once_and_never_queues() -> None:
    bulkhead = Bulkhead(2)
    assert [bulkhead.try_enter() for _ in range(4)] == [True, True, False, False]
    assert bulkhead.in_flight == 2
    bulkhead.leave()
    assert bulkhead.in_flight == 1
    assert bulkhead.try_enter()
    assert not bulkhead.try_enter()


def test_leaving_a_bulkhead_twice_is_a_fault() -> None:
    bulkhead = Bulkhead(1)
    assert bulkhead.try_enter()
    bulkhead.leave()
    with pytest.raises(AssertionError, match="never entered"):
        bulkhead.leave()


def test_a_bulkhead_without_places_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Bulkhead(0)
