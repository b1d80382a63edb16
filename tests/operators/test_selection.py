from __future__ import annotations

import math

import msgspec
import pytest

from datastreamx.config import SelectionConfig
from operators.bidding.selection import Selection, SelectionPolicy, build_policy
from operators.bidding.selection.draws import draw, independent
from operators.bidding.selection.exploring import Exploring
from operators.bidding.selection.fixed import CallAll, Waterfall, Weighted
from tests.operators.selections import CONFIGS, NAMES, SEED, SIGMAS, Market, context, play

MARKET = Market(tuple((0.1 + 0.05 * arm, 1_000_000 + 100_000 * arm) for arm in range(8)))


def tiers(selection: Selection) -> dict[str, int | None]:
    return {choice.aggregator: choice.tier for choice in selection.choices}


def probabilities(selection: Selection) -> dict[str, float]:
    return {choice.aggregator: choice.probability for choice in selection.choices}


def assert_share(hits: int, trials: int, probability: float, what: str) -> None:
    deviation = math.sqrt(probability * (1 - probability) / trials)
    assert abs(hits / trials - probability) <= SIGMAS * deviation, (what, hits / trials, probability, f"seed {SEED}")


def test_draws_are_the_same_in_every_release_and_process() -> None:
    assert draw("a" * 32, "select", "alpha") == 0.3501905842849886
    assert draw("a" * 32, "explore") == 0.428619934864792


def test_draws_are_uniform_and_purposes_and_aggregators_do_not_share_them() -> None:
    count = 20_000
    ids = [context(number).auction_id for number in range(count)]
    series = [
        [draw(auction, "select", "a") for auction in ids],
        [draw(auction, "select", "b") for auction in ids],
        [draw(auction, "explore", "a") for auction in ids],
    ]
    for values in series:
        assert 0 <= min(values) <= max(values) < 1
        for tenth in range(10):
            assert_share(sum(tenth <= 10 * value < tenth + 1 for value in values), count, 0.1, f"tenth {tenth}")
    for one, other in ((0, 1), (0, 2), (1, 2)):
        covariance = sum((x - 0.5) * (y - 0.5) for x, y in zip(series[one], series[other], strict=True)) / count
        assert abs(covariance) <= SIGMAS / 12 / math.sqrt(count)


def test_probability_one_is_always_drawn_and_zero_never() -> None:
    for number in range(1_000):
        assert independent(context(number).auction_id, [("a", 1.0), ("b", 0.0)]) == [True, False]


def test_all_calls_everyone_at_once_with_certainty() -> None:
    selection = CallAll(NAMES).select(context(1))
    assert set(tiers(selection).values()) == {0}
    assert set(probabilities(selection).values()) == {1.0}


def test_waterfall_asks_in_configured_order_and_then_the_others() -> None:
    selection = Waterfall(("a", "b", "c", "d"), ("c", "b")).select(context(1))
    assert tiers(selection) == {"a": 2, "b": 1, "c": 0, "d": 3}


def test_waterfall_logs_certainty_while_nobody_bids_and_the_explored_share_after_a_bid() -> None:
    policy = Exploring(Waterfall(("a", "b", "c"), ("b", "c")), 0.1)
    for number in range(100):
        selection = policy.select(context(number))
        assert selection.propensities(()) == (1.0, 1.0, 1.0)
        assert selection.propensities(("a",)) == (1.0, 1.0, 1.0)
        assert selection.propensities(("b",)) == (0.1, 1.0, 0.1)
        assert selection.propensities(("a", "c")) == (0.1, 1.0, 1.0)


def test_a_bid_changes_no_propensity_where_everyone_has_the_same_turn() -> None:
    policy = build_policy(CONFIGS["weighted"], NAMES)
    selection = policy.select(context(1))
    assert selection.propensities(NAMES) == tuple(choice.probability for choice in selection.choices)


def test_weighted_never_goes_below_the_floor_and_calls_the_unnamed_always() -> None:
    selection = Weighted(("a", "b", "c"), {"a": 0.0, "b": 0.3}, 0.05).select(context(1))
    assert probabilities(selection) == {"a": 0.05, "b": 0.3, "c": 1.0}


def test_weighted_draws_independently_so_that_sometimes_nobody_is_called() -> None:
    policy, count = Weighted(("a", "b"), {"a": 0.3, "b": 0.4}, 0.05), 20_000
    drawn = [tuple(choice.tier for choice in policy.select(context(number)).choices) for number in range(count)]
    for tiers_, probability in {(0, 0): 0.12, (0, None): 0.18, (None, 0): 0.28, (None, None): 0.42}.items():
        assert_share(drawn.count(tiers_), count, probability, str(tiers_))


@pytest.mark.parametrize("name", CONFIGS)
def test_explored_auctions_call_everyone_and_are_the_configured_share(name: str) -> None:
    config = msgspec.structs.replace(CONFIGS[name], explore=0.1)
    played = list(play(build_policy(config, NAMES), lambda _: MARKET, 4_000))
    explored = [auction for auction in played if auction.selection.explored]
    assert_share(len(explored), len(played), 0.1, "explored")
    for auction in explored:
        assert auction.called == (True,) * len(NAMES)


def test_the_same_auctions_are_explored_whatever_policy_runs() -> None:
    explored = {
        tuple(build_policy(config, NAMES).select(context(number)).explored for number in range(2_000))
        for config in CONFIGS.values()
    }
    assert len(explored) == 1
    assert True in explored.pop()


def test_exploration_is_part_of_every_probability() -> None:
    selection = Exploring(Weighted(("a", "b"), {"a": 0.3}, 0.05), 0.02).select(context(1))
    assert probabilities(selection) == pytest.approx({"a": 0.02 + 0.98 * 0.3, "b": 1.0})


@pytest.mark.parametrize("explore", [0.001, 0.02, 0.1, 1 / 3, 0.5])
def test_certainty_stays_exactly_one_under_exploration(explore: float) -> None:
    selection = Exploring(CallAll(("a",)), explore).select(context(1))
    assert probabilities(selection) == {"a": 1.0}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_candidate_has_a_choice_in_order_with_a_propensity_in_reach(name: str) -> None:
    for auction in play(build_policy(CONFIGS[name], NAMES), lambda _: MARKET, 2_000):
        assert tuple(choice.aggregator for choice in auction.selection.choices) == NAMES
        for choice, propensity in zip(auction.selection.choices, auction.propensities, strict=True):
            assert 0 < propensity <= 1, choice
            assert 0 < choice.probability <= 1, choice


@pytest.mark.parametrize("name", CONFIGS)
def test_a_replay_repeats_every_choice(name: str) -> None:
    first, second = (
        [auction.selection for auction in play(build_policy(CONFIGS[name], NAMES), lambda _: MARKET, 1_000)]
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configured_policy_is_built_and_names_itself(name: str) -> None:
    policy: SelectionPolicy = build_policy(CONFIGS[name], NAMES)
    selection = policy.select(context(1))
    assert (policy.name, selection.policy) == (name, name)
    assert policy.model_version == selection.model_version


@pytest.mark.parametrize("name", ["all", "waterfall", "weighted", "thompson"])
def test_a_single_aggregator_is_enough_for_every_policy(name: str) -> None:
    config = msgspec.convert({"policy": name}, SelectionConfig)
    for auction in play(build_policy(config, ("only",)), lambda _: Market(((0.5, 1_000_000),)), 200):
        assert auction.called == (True,)
        assert auction.propensities == (1.0,)
