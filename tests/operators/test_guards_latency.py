from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from operators.bidding.latency import LatencyHistogram, TimeBudget

CAP_MS = 300
MIN_CALL_MS = 30
FLOOR_MS = 75
GRACE_MS = 500


def _budget(*, dynamic: bool = True) -> TimeBudget:
    return TimeBudget(CAP_MS, MIN_CALL_MS, dynamic)


def _play(budget: TimeBudget, calls: int, latency_ms: Callable[[], float], *, grace_ms: int = GRACE_MS) -> int:
    """Make calls as a bidder does, late answers read within the grace; returns how many answered in time."""
    in_time = 0
    for _ in range(calls):
        wait_ms = budget.wait_ms(1_000)
        assert wait_ms is not None
        taken_ms = latency_ms()
        in_time += taken_ms <= wait_ms
        given_up_ms = wait_ms + grace_ms
        budget.observe(int(min(taken_ms, given_up_ms) * 1_000), answered=taken_ms <= given_up_ms)
    return in_time


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_a_quantile_is_within_a_bucket_of_the_exact_one(q: float, seed: int) -> None:
    generator = random.Random(seed)
    latencies = [int(generator.lognormvariate(10, 0.8)) for _ in range(1_000)]
    # Nothing is forgotten with a window this wide, so the plain quantile is the oracle.
    histogram = LatencyHistogram(window=10_000_000)
    for latency_us in latencies:
        histogram.add(latency_us)
    # It still forgets a little, which may move the rank by one.
    rank = round(q * len(latencies)) - 1
    exact_us, next_us = sorted(latencies)[rank : rank + 2]
    quantile_us = histogram.quantile(q)
    assert quantile_us is not None
    assert exact_us <= quantile_us <= next_us * 1.06, f"seed {seed}"


def test_an_empty_histogram_knows_no_quantile() -> None:
    assert LatencyHistogram().quantile(0.5) is None


@pytest.mark.parametrize("q", [0.0, -0.1, 1.1, float("nan")])
def test_a_quantile_outside_of_its_range_is_refused(q: float) -> None:
    histogram = LatencyHistogram()
    histogram.add(1_000)
    with pytest.raises(ValueError, match="quantile"):
        histogram.quantile(q)


@pytest.mark.parametrize(("latency_us", "quantile_us"), [(-5, 100), (0, 100), (100, 100)])
def test_very_short_latencies_share_the_first_bucket(latency_us: int, quantile_us: int) -> None:
    histogram = LatencyHistogram()
    histogram.add(latency_us)
    assert histogram.quantile(0.99) == quantile_us


def test_absurd_latencies_share_the_last_bucket() -> None:
    histogram = LatencyHistogram()
    histogram.add(10**15)
    quantile_us = histogram.quantile(0.5)
    assert quantile_us is not None
    assert 60_000_000 <= quantile_us < 66_000_000


def test_what_is_long_past_is_forgotten() -> None:
    histogram = LatencyHistogram(window=1_000)
    for _ in range(1_000):
        histogram.add(200_000)
    for _ in range(300):
        histogram.add(10_000)
    still_there = histogram.quantile(0.9)
    for _ in range(3_000):
        histogram.add(10_000)
    gone = histogram.quantile(0.99)
    assert still_there is not None
    assert still_there > 190_000
    assert gone is not None
    assert gone < 11_000


def test_rescaling_of_the_weights_changes_no_quantile() -> None:
    # The weight of an answer passes the limit after about 115,000 answers with this window.
    histogram = LatencyHistogram(window=1_000)
    for number in range(130_000):
        histogram.add(10_000 if number % 100 else 100_000)
    assert histogram.count == 130_000
    assert histogram.quantile(0.5) == pytest.approx(10_000, rel=0.06)
    assert histogram.quantile(0.995) == pytest.approx(100_000, rel=0.06)


def test_the_timeout_is_the_cap_until_enough_is_known() -> None:
    budget = _budget()
    _play(budget, 90, lambda: 20)
    assert budget.timeout_ms == CAP_MS
    _play(budget, 60, lambda: 20)
    assert budget.timeout_ms == FLOOR_MS


def test_a_timeout_that_is_not_dynamic_stays_at_the_cap() -> None:
    budget = _budget(dynamic=False)
    _play(budget, 2_000, lambda: 20)
    assert budget.timeout_ms == CAP_MS


@pytest.mark.parametrize("seed", range(3))
def test_the_timeout_follows_the_slow_percent_with_a_margin(seed: int) -> None:
    generator = random.Random(seed)
    budget = _budget()
    _play(budget, 3_000, lambda: generator.uniform(80, 120))
    assert 120 * 1.2 <= budget.timeout_ms <= 120 * 1.25 * 1.06 + 1, f"seed {seed}"


def test_the_timeout_follows_a_slow_down_within_a_stride_of_its_first_percent() -> None:
    budget = _budget()
    _play(budget, 2_000, lambda: 20)
    assert budget.timeout_ms == FLOOR_MS
    _play(budget, 48, lambda: 150)
    assert 150 * 1.25 <= budget.timeout_ms <= 150 * 1.25 * 1.06
    assert _play(budget, 500, lambda: 150) == 500


def test_the_timeout_follows_a_speed_up() -> None:
    budget = _budget()
    _play(budget, 2_000, lambda: 220)
    assert budget.timeout_ms >= 220 * 1.25
    _play(budget, 3_000, lambda: 40)
    assert budget.timeout_ms == FLOOR_MS


def test_an_aggregator_slower_than_its_timeout_is_heard_again_without_any_late_answer() -> None:
    """The spiral: with no grace every slow answer is cut off, so only censored calls can tell."""
    budget = _budget()
    _play(budget, 5_000, lambda: 20, grace_ms=0)
    assert budget.timeout_ms == FLOOR_MS
    _play(budget, 48, lambda: 200, grace_ms=0)
    assert budget.timeout_ms == CAP_MS
    assert _play(budget, 1_000, lambda: 200, grace_ms=0) == 1_000


@pytest.mark.parametrize("seed", range(3))
def test_cutting_off_the_slow_tail_does_not_shrink_the_timeout(seed: int) -> None:
    """One call in twenty is slow: an estimate made of the calls in time alone would never see them."""
    generator = random.Random(seed)
    budget = _budget()
    latency = lambda: 180 if generator.random() < 0.05 else 20  # noqa: E731 - reads best in place
    _play(budget, 1_000, lambda: 20, grace_ms=0)
    _play(budget, 1_000, latency, grace_ms=0)
    for _ in range(20):
        _play(budget, 500, latency, grace_ms=0)
        assert budget.timeout_ms >= 180, f"seed {seed}"


@pytest.mark.parametrize("seed", range(10))
def test_whatever_the_latency_drifts_to_it_is_heard_again(seed: int) -> None:
    generator = random.Random(seed)
    budget = _budget()
    for _ in range(10):
        typical_ms = generator.uniform(5, 280)
        grace_ms = generator.choice([0, 50, 500])
        latency = lambda: generator.uniform(0.9, 1.0) * typical_ms  # noqa: B023, E731 - used up within the round
        _play(budget, 64, latency, grace_ms=grace_ms)
        assert _play(budget, 400, latency, grace_ms=grace_ms) >= 396, f"seed {seed}, {typical_ms:.0f} ms"


def test_a_silent_aggregator_is_given_the_cap_and_no_more() -> None:
    budget = _budget()
    _play(budget, 2_000, lambda: 20)
    _play(budget, 2_000, lambda: 60_000)
    assert budget.timeout_ms == CAP_MS


def test_the_timeout_never_leaves_its_range() -> None:
    assert TimeBudget(100, 60, dynamic=True).wait_ms(1_000) == 100
    budget = TimeBudget(100, 60, dynamic=True)
    _play(budget, 500, lambda: 1)
    assert budget.timeout_ms == 60


def test_a_cap_below_the_minimum_means_no_call() -> None:
    assert TimeBudget(20, 30, dynamic=True).wait_ms(1_000) is None


@pytest.mark.parametrize(
    ("remaining_ms", "expected"), [(1_000, 300), (300, 300), (299, 299), (30, 30), (29, None), (0, None), (-50, None)]
)
def test_the_wait_never_exceeds_what_remains(remaining_ms: int, expected: int | None) -> None:
    assert _budget().wait_ms(remaining_ms) == expected


def test_the_aggregator_is_told_the_wait_without_the_network() -> None:
    budget = _budget()
    assert budget.tmax_ms(300) == 300
    budget.observe_connect(20_000, tls=False)
    assert budget.network_ms in {20, 21, 22}
    assert budget.tmax_ms(300) == 300 - budget.network_ms


def test_half_of_a_tls_connection_is_a_round_trip() -> None:
    budget = _budget()
    budget.observe_connect(40_000, tls=True)
    assert budget.network_ms in {20, 21, 22}


def test_one_lost_packet_does_not_change_the_round_trip() -> None:
    budget = _budget()
    for connect_us in [20_000] * 10 + [1_020_000] + [20_000] * 2:
        budget.observe_connect(connect_us, tls=False)
    assert budget.network_ms in {20, 21, 22}


def test_the_round_trip_follows_a_change_of_the_route() -> None:
    budget = _budget()
    for connect_us in [20_000] * 50 + [60_000] * 50:
        budget.observe_connect(connect_us, tls=False)
    assert budget.network_ms >= 60


def test_an_aggregator_is_told_at_least_one_millisecond() -> None:
    budget = _budget()
    budget.observe_connect(900_000, tls=False)
    assert budget.tmax_ms(40) == 1


@pytest.mark.parametrize(("cap_ms", "min_call_ms"), [(0, 30), (300, 0)])
def test_times_that_are_no_times_are_refused(cap_ms: int, min_call_ms: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TimeBudget(cap_ms, min_call_ms, dynamic=True)
