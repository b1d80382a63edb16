from __future__ import annotations

import random

import pytest

from datastreamx.config import AuctionConfig, FloorRule
from operators.bidding.floors import Floors

HOUR_MS = 3_600_000
MIDNIGHT_MS = 1_700_006_400_000  # 2023-11-15T00:00:00Z


def floors(*rules: FloorRule, default_micros: int = 100) -> Floors:
    return Floors(AuctionConfig(floor_micros=default_micros, floors=rules))


def test_without_a_matching_rule_the_default_counts() -> None:
    table = floors(FloorRule(floor_micros=1, channels=("news",)))
    assert table.floor_micros("sports", MIDNIGHT_MS, "alpha") == 100
    assert floors().floor_micros("sports", MIDNIGHT_MS, "alpha") == 100


def test_rule_without_conditions_replaces_the_default() -> None:
    assert floors(FloorRule(floor_micros=7)).floor_micros("sports", MIDNIGHT_MS, "alpha") == 7


def test_hour_is_that_of_utc() -> None:
    table = floors(FloorRule(floor_micros=5, hours_utc=(18, 23)))
    at = [table.floor_micros("c", MIDNIGHT_MS + hour * HOUR_MS, "alpha") for hour in range(24)]
    assert [hour for hour, found in enumerate(at) if found == 5] == [18, 23]
    assert table.floor_micros("c", MIDNIGHT_MS + 19 * HOUR_MS - 1, "alpha") == 5


def test_most_conditions_count_even_if_their_rule_comes_first() -> None:
    table = floors(
        FloorRule(floor_micros=3, channels=("news",), hours_utc=(0,), aggregators=("alpha",)),
        FloorRule(floor_micros=2, channels=("news",), hours_utc=(0,)),
        FloorRule(floor_micros=1, channels=("news",)),
    )
    assert table.floor_micros("news", MIDNIGHT_MS, "alpha") == 3
    assert table.floor_micros("news", MIDNIGHT_MS, "beta") == 2
    assert table.floor_micros("news", MIDNIGHT_MS + HOUR_MS, "alpha") == 1


@pytest.mark.parametrize("first", ["channels", "aggregators"])
def test_of_equally_many_conditions_the_later_rule_counts(first: str) -> None:
    by_channel = FloorRule(floor_micros=1, channels=("news",))
    by_aggregator = FloorRule(floor_micros=2, aggregators=("alpha",))
    rules = (by_channel, by_aggregator) if first == "channels" else (by_aggregator, by_channel)
    assert floors(*rules).floor_micros("news", MIDNIGHT_MS, "alpha") == rules[-1].floor_micros


def test_same_condition_twice_the_later_rule_counts() -> None:
    table = floors(FloorRule(floor_micros=1, channels=("a", "b")), FloorRule(floor_micros=2, channels=("b", "c")))
    assert [table.floor_micros(channel, MIDNIGHT_MS, "alpha") for channel in "abc"] == [1, 2, 2]


def test_floor_of_zero_is_a_floor() -> None:
    assert floors(FloorRule(floor_micros=0, channels=("news",))).floor_micros("news", MIDNIGHT_MS, "alpha") == 0


def naive_floor(config: AuctionConfig, channel: str, hour: int, aggregator: str) -> int:
    best: tuple[tuple[int, int], int] = ((-1, -1), config.floor_micros)
    for number, rule in enumerate(config.floors):
        conditions = (
            (rule.channels, channel in rule.channels),
            (rule.hours_utc, hour in rule.hours_utc),
            (rule.aggregators, aggregator in rule.aggregators),
        )
        if all(met for values, met in conditions if values):
            best = max(best, ((sum(bool(values) for values, _ in conditions), number), rule.floor_micros))
    return best[1]


@pytest.mark.parametrize("seed", range(40))
def test_table_says_what_reading_all_rules_says(seed: int) -> None:
    random_ = random.Random(seed)

    def some(values: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(random_.sample(values, random_.choice([0, 1, 2])))

    rules = tuple(
        FloorRule(
            floor_micros=random_.randrange(1_000),
            channels=some(("a", "b", "c")),  # type: ignore[arg-type]
            hours_utc=some((0, 1, 23)),  # type: ignore[arg-type]
            aggregators=some(("alpha", "beta", "gamma")),  # type: ignore[arg-type]
        )
        for _ in range(random_.randrange(8))
    )
    config = AuctionConfig(floor_micros=500, floors=rules)
    table = Floors(config)
    for channel in "abcd":
        for hour in (0, 1, 2, 23):
            for aggregator in ("alpha", "beta", "gamma", "delta"):
                found = table.floor_micros(channel, MIDNIGHT_MS + hour * HOUR_MS, aggregator)
                assert found == naive_floor(config, channel, hour, aggregator), (seed, channel, hour, aggregator, rules)
