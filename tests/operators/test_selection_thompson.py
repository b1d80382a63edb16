from __future__ import annotations

import math
import random

import pytest

from datastreamx.config import SelectionConfig
from datastreamx.model.auction import DecidedOutcome, Outcome
from operators.bidding.selection import build_policy
from operators.bidding.selection.posterior import ForgettingValues, among_best
from operators.bidding.selection.thompson import Thompson
from tests.operators.selections import NAMES, SEED, SIGMAS, Market, Played, context, play

# From the most to the least valuable: 0.6, 0.45, 0.3, 0.24, 0.15, 0.1, 0.08 and 0.025 per call.
TERMS = (
    (0.3, 2_000_000),
    (0.25, 1_800_000),
    (0.2, 1_500_000),
    (0.2, 1_200_000),
    (0.15, 1_000_000),
    (0.1, 1_000_000),
    (0.1, 800_000),
    (0.05, 500_000),
)
STATIONARY = Market(TERMS)
# The best hardly bids any more, the worst becomes the best.
CHANGED = Market(((0.02, 2_000_000), *TERMS[1:7], (0.4, 2_000_000)))

TEACHES_PRICE = {Outcome.WON, Outcome.OUTBID, Outcome.EXPIRED}
TEACHES_ZERO = {
    Outcome.NO_BID,
    Outcome.ERROR,
    Outcome.TIMEOUT,
    Outcome.INVALID_RESPONSE,
    Outcome.UNREACHABLE,
    Outcome.UNSUITABLE,
    Outcome.CURRENCY,
    Outcome.BELOW_FLOOR,
    Outcome.CREATIVE_REJECTED,
    Outcome.ADVERTISER_BLOCKED,
    Outcome.OVERSIZE,
}


def thompson(calls: int = 1, *, aggregators: tuple[str, ...] = ("a", "b"), floor: float = 0.05) -> Thompson:
    return Thompson(aggregators, calls, floor, {"news": ("news1", "news2"), "sports": ("sports1",)})


def offer(aggregator: str, price_micros: int | None) -> DecidedOutcome:
    code = Outcome.OUTBID if price_micros else Outcome.NO_BID
    return DecidedOutcome(aggregator, code, True, price_micros)


def teach(policy: Thompson, channel: str, times: int, *outcomes: DecidedOutcome) -> None:
    for _ in range(times):
        policy.learn(channel, outcomes)


def probabilities(policy: Thompson, channel: str = "ch1") -> dict[str, float]:
    return {choice.aggregator: choice.probability for choice in policy.select(context(0, channel)).choices}


def share_of_best(played: list[Played], best: str) -> float:
    return sum(auction.called[NAMES.index(best)] for auction in played) / len(played)


def revenue_share(played: list[Played]) -> float:
    """Revenue of the auctions, of what calling everyone would have brought."""
    return sum(auction.revenue for auction in played) / sum(max(auction.values) for auction in played)


def mean_calls(played: list[Played]) -> float:
    return sum(sum(auction.called) for auction in played) / len(played)


def test_the_unknown_are_called_always() -> None:
    policy = thompson()
    assert probabilities(policy) == {"a": 1.0, "b": 1.0}
    teach(policy, "ch1", 20, offer("a", 1_000_000), offer("b", None))
    assert probabilities(policy) == {"a": 1.0, "b": 1.0}


def test_a_new_aggregator_is_called_always_while_the_known_keep_their_probabilities() -> None:
    policy = thompson(aggregators=("a", "b", "new"))
    teach(policy, "ch1", 200, offer("a", 2_000_000), offer("b", 1_000_000))
    assert probabilities(policy) == {"a": 1.0, "b": 0.05, "new": 1.0}


def test_the_better_of_two_is_called_and_the_other_at_the_floor() -> None:
    policy = thompson(floor=0.07)
    teach(policy, "ch1", 200, offer("a", 1_000_000), offer("b", 2_000_000))
    assert probabilities(policy) == {"a": 0.07, "b": 1.0}


def test_with_as_many_calls_as_aggregators_everyone_is_called() -> None:
    policy = thompson(calls=2)
    teach(policy, "ch1", 200, offer("a", 1_000_000), offer("b", None))
    assert probabilities(policy) == {"a": 1.0, "b": 1.0}


def test_where_nobody_ever_bids_nobody_is_preferred() -> None:
    policy = thompson(aggregators=NAMES, calls=2)
    teach(policy, "ch1", 500, *(offer(name, None) for name in NAMES))
    drawn = [probabilities(policy)[name] for name in NAMES]
    # One of them is also called when nobody is drawn, which happens to (3/4)^8 = 10 %.
    assert sorted(drawn)[:-1] == pytest.approx([0.25] * 7, abs=0.07)
    assert max(drawn) == pytest.approx(0.25 + 0.75**8, abs=0.07)


@pytest.mark.parametrize("code", sorted(TEACHES_PRICE))
def test_a_valid_bid_teaches_its_price(code: Outcome) -> None:
    policy = thompson()
    teach(policy, "ch1", 200, DecidedOutcome("a", code, True, 2_000_000), offer("b", 1_000_000))
    assert probabilities(policy) == {"a": 1.0, "b": 0.05}


@pytest.mark.parametrize("code", sorted(TEACHES_ZERO))
def test_a_call_without_a_valid_bid_teaches_zero_whatever_price_it_named(code: Outcome) -> None:
    policy = thompson()
    teach(policy, "ch1", 200, DecidedOutcome("a", code, True, 2_000_000), offer("b", 1_000_000))
    assert probabilities(policy) == {"a": 0.05, "b": 1.0}


@pytest.mark.parametrize("code", sorted(Outcome))
def test_who_was_not_called_teaches_nothing(code: Outcome) -> None:
    policy = thompson()
    teach(policy, "ch1", 200, offer("a", 2_000_000), offer("b", 1_000_000))
    teach(policy, "ch1", 5_000, DecidedOutcome("a", code, False), DecidedOutcome("b", code, False, 9_000_000))
    assert probabilities(policy) == {"a": 1.0, "b": 0.05}


def test_who_was_interrupted_teaches_nothing() -> None:
    policy = thompson()
    teach(policy, "ch1", 200, offer("a", 2_000_000), offer("b", 1_000_000))
    teach(policy, "ch1", 5_000, DecidedOutcome("a", Outcome.CLOSED_EARLY, True), offer("b", 1_000_000))
    assert probabilities(policy) == {"a": 1.0, "b": 0.05}


def test_an_aggregator_that_is_no_longer_configured_is_passed_over() -> None:
    policy = thompson()
    teach(policy, "ch1", 200, offer("gone", 9_000_000), offer("a", 2_000_000), offer("b", 1_000_000))
    assert probabilities(policy) == {"a": 1.0, "b": 0.05}


def test_channel_groups_learn_separately_and_all_other_channels_together() -> None:
    policy = thompson()
    teach(policy, "news1", 200, offer("a", 2_000_000), offer("b", 1_000_000))
    teach(policy, "other1", 200, offer("a", 1_000_000), offer("b", 2_000_000))
    assert probabilities(policy, "news2") == {"a": 1.0, "b": 0.05}
    assert probabilities(policy, "other2") == {"a": 0.05, "b": 1.0}
    assert probabilities(policy, "sports1") == {"a": 1.0, "b": 1.0}


def test_learning_reaches_the_policy_through_exploration() -> None:
    policy = build_policy(SelectionConfig(policy="thompson", calls=1, explore=0.02), ("a", "b"))
    for _ in range(200):
        policy.learn("ch1", [offer("a", 2_000_000), offer("b", 1_000_000)])
    logged = {choice.aggregator: choice.probability for choice in policy.select(context(0)).choices}
    assert logged == pytest.approx({"a": 1.0, "b": 0.02 + 0.98 * 0.05})


def test_an_aggregator_that_went_silent_is_doubted_and_then_called_again() -> None:
    policy = thompson(floor=0.01)
    teach(policy, "ch1", 200, offer("a", 2_000_000), offer("b", 1_000_000))
    assert probabilities(policy)["b"] == 0.01
    teach(policy, "ch1", 10_000, offer("a", 2_000_000))
    assert probabilities(policy)["b"] == 1.0


def test_logged_probabilities_are_those_with_which_each_is_called_even_when_nobody_is_drawn() -> None:
    # Five alike and one after whom we are: (4/5)^5 = 33 % of the draws choose nobody.
    names = NAMES[:5]
    policy, count = thompson(aggregators=names, floor=0.05), 20_000
    rng = random.Random(SEED)
    for _ in range(300):
        policy.learn("ch1", [offer(name, rng.choice((None, 1_000_000))) for name in names])
    logged = probabilities(policy)
    called = [
        [choice.aggregator for choice in policy.select(context(number)).choices if choice.tier == 0]
        for number in range(count)
    ]
    assert all(called)
    for name, probability in logged.items():
        frequency = sum(name in names_ for names_ in called) / count
        deviation = math.sqrt(probability * (1 - probability) / count)
        assert abs(frequency - probability) <= SIGMAS * deviation, (name, frequency, probability, f"seed {SEED}")
    # The rule matters here: without it, the best would be called far less often than is logged.
    assert max(logged.values()) > 0.3


def test_frequencies_match_the_logged_probabilities_while_the_policy_learns() -> None:
    policy = build_policy(SelectionConfig(policy="thompson", calls=2), NAMES)
    played = list(play(policy, lambda number: STATIONARY if number < 4_000 else CHANGED, 10_000))
    for arm, name in enumerate(NAMES):
        logged = [auction.selection.choices[arm].probability for auction in played]
        called = sum(auction.called[arm] for auction in played)
        deviation = math.sqrt(sum(probability * (1 - probability) for probability in logged))
        assert abs(called - sum(logged)) <= SIGMAS * deviation, (name, called, sum(logged), f"seed {SEED}")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_best_are_found_at_a_fraction_of_the_calls(seed: int) -> None:
    """Regret against calling all eight, with the default floor and exploration.

    Measured over five seeds, after 2,000 auctions: the best is called in every auction and the second in 97 to 100 %
    of them, with 2.4 calls instead of 8, for 72 to 73 % of the revenue of all eight. The two best alone, known in
    advance, bring 70 to 71 %; three calls bring 84 %.
    """
    policy = build_policy(SelectionConfig(policy="thompson", calls=2), NAMES)
    played = list(play(policy, lambda _: STATIONARY, 8_000, seed=seed))[2_000:]
    assert share_of_best(played, "agg0") > 0.98, f"seed {seed}"
    assert share_of_best(played, "agg1") > 0.9, f"seed {seed}"
    assert mean_calls(played) < 2.6, f"seed {seed}"
    clairvoyant = sum(max(auction.values[:2]) for auction in played) / sum(max(auction.values) for auction in played)
    assert revenue_share(played) > max(0.7, clairvoyant), f"seed {seed}"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_new_best_is_found_when_the_world_changes(seed: int) -> None:
    """After the change the former best is worth 0.04 and the former worst 0.8 per call.

    Measured over three seeds: the new best is called in every auction from 2,000 auctions after the change.
    """
    policy = build_policy(SelectionConfig(policy="thompson", calls=1), NAMES)
    played = list(play(policy, lambda number: STATIONARY if number < 6_000 else CHANGED, 12_000, seed=seed))
    before, after = played[4_000:6_000], played[9_000:]
    assert share_of_best(before, "agg0") > 0.9, f"seed {seed}"
    assert share_of_best(before, "agg7") < 0.15, f"seed {seed}"
    assert share_of_best(after, "agg7") > 0.98, f"seed {seed}"
    assert share_of_best(after, "agg0") < 0.15, f"seed {seed}"
    assert mean_calls(after) < 1.7, f"seed {seed}"


def test_values_count_half_after_the_half_life_also_beyond_many_rescalings() -> None:
    half_life, lessons = 2.0, 200
    values = ForgettingValues(2, half_life)
    for lesson in range(lessons):
        values.add([(0, 1_000_000 * (lesson % 3))] if lesson % 2 else [(1, 500_000)])
    weights = [0.5 ** ((lessons - 1 - lesson) / half_life) for lesson in range(lessons)]
    assert values.calls() == pytest.approx([sum(weights[1::2]), sum(weights[0::2])])
    (mean, _), (other, _) = values.posterior([0, 1])
    total = sum(weight * 1_000_000 * (lesson % 3) for lesson, weight in enumerate(weights) if lesson % 2)
    pooled = (total + 500_000 * sum(weights[0::2])) / sum(weights)
    assert mean == pytest.approx((total + 4 * pooled) / (sum(weights[1::2]) + 4))
    assert other == pytest.approx((500_000 * sum(weights[0::2]) + 4 * pooled) / (sum(weights[0::2]) + 4))


def test_belief_narrows_with_the_root_of_the_calls() -> None:
    rng = random.Random(SEED)
    deviations = []
    for calls in (1_000, 4_000):
        values = ForgettingValues(1, 1e9)
        for _ in range(calls):
            values.add([(0, rng.choice((0, 2_000_000)))])
        (mean, deviation), *_ = values.posterior([0])
        assert abs(mean - 1_000_000) <= SIGMAS * deviation, f"seed {SEED}"
        deviations.append(deviation)
    assert deviations[0] == pytest.approx(1_000_000 / math.sqrt(1_000), rel=0.02)
    assert deviations[1] == pytest.approx(deviations[0] / 2, rel=0.02)


def test_calls_that_brought_nothing_leave_a_doubt() -> None:
    values = ForgettingValues(2, 1e9)
    for _ in range(30):
        values.add([(0, 0), (1, 1_000_000)])
    (mean, deviation), _ = values.posterior([0, 1])
    assert 0 < mean < 100_000
    assert deviation > mean / 2


def test_chance_to_be_among_the_best_agrees_with_brute_force() -> None:
    rng = random.Random(SEED)
    for _ in range(5):
        beliefs = [(rng.gauss(0, 1), rng.uniform(0.05, 1)) for _ in range(6)]
        hits = [0] * 6
        for _ in range(4_000):
            values = [rng.gauss(mean, deviation) for mean, deviation in beliefs]
            for arm in sorted(range(6), key=values.__getitem__)[-2:]:
                hits[arm] += 1
        found = among_best(beliefs, 2, 128)
        assert sum(found) == pytest.approx(2)
        assert found == pytest.approx([hit / 4_000 for hit in hits], abs=0.08), f"seed {SEED}"
