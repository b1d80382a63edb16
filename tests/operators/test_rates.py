from __future__ import annotations

import os
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from datastreamx.clock import ManualClock
from datastreamx.errors import ConfigError
from operators.bidding.rates import LOOK_INTERVAL_S, Rates, RateTable, load_rates

AS_OF = datetime(2026, 1, 31, 6, tzinfo=UTC)
AS_OF_MS = int(AS_OF.timestamp() * 1000)
HOUR_MS = 3_600_000
LOOK_MS = int(LOOK_INTERVAL_S * 1000)
GOOD = "as_of = 2026-01-31T06:00:00Z\n[rates]\nEUR = 1.0842\nJPY = 0.0064\n"


def rates(**per_unit: str) -> Rates:
    return Rates("r", AS_OF_MS, {currency: Decimal(value) for currency, value in per_unit.items()})


class Desk:
    """A file of rates, a clock and the table that reads it."""

    def __init__(self, folder: Path, text: str = GOOD, *, age_ms: int = HOUR_MS) -> None:
        self.path = folder / "rates.toml"
        self.writes = 0
        self.write(text)
        self.clock = ManualClock(AS_OF_MS + age_ms)

    def write(self, text: str) -> None:
        self.path.write_text(text, encoding="utf-8")
        # Two writes within one tick of the file system's clock would look the same.
        self.writes += 1
        os.utime(self.path, ns=(self.writes, self.writes))

    def open(self) -> RateTable:
        return RateTable(self.path, "USD", 48, self.clock)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def problems_of(desk: Desk) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        desk.open()
    assert raised.value.source == str(desk.path)
    return raised.value.problems


def test_price_is_converted_through_the_base_currency() -> None:
    table = rates(USD="1", EUR="1.0842", JPY="0.0064")
    assert table.convert(10_000_000, "EUR", "USD") == 10_842_000
    assert table.convert(10_842_000, "USD", "EUR") == 10_000_000
    assert table.convert(64_000_000, "USD", "JPY") == 10_000_000_000
    assert table.convert(64, "EUR", "JPY") == 10_842


def test_conversion_rounds_down() -> None:
    table = rates(USD="1", EUR="1.9")
    assert table.convert(1, "EUR", "USD") == 1
    assert table.convert(1, "USD", "EUR") == 0


def test_unknown_currency_cannot_be_converted() -> None:
    assert rates(USD="1").convert(1, "EUR", "USD") is None
    assert rates(USD="1").convert(1, "USD", "EUR") is None


RATE = st.decimals("0.000000001", "1000000000", allow_nan=False, places=9)


@given(st.integers(1, 10**15), RATE, RATE)
def test_conversion_never_rounds_up_and_loses_less_than_a_millionth(micros: int, source: Decimal, to: Decimal) -> None:
    found = Rates("r", 0, {"AAA": source, "BBB": to}).convert(micros, "AAA", "BBB")
    assert found is not None
    exact = micros * Fraction(source) / Fraction(to)
    assert found <= exact < found + 1


def test_file_is_read_exactly_and_names_its_rates(desk: Desk) -> None:
    found = desk.open().current()
    assert found is not None
    assert found.per_unit == {"USD": Decimal(1), "EUR": Decimal("1.0842"), "JPY": Decimal("0.0064")}
    assert found.as_of_ms == AS_OF_MS
    assert found.id.startswith("2026-01-31T06:00:00Z-")


def test_other_content_of_the_same_time_has_another_id(desk: Desk) -> None:
    first = load_rates(desk.path, "USD", desk.clock.now_ms()).id
    desk.write(GOOD.replace("1.0842", "1.0843"))
    assert load_rates(desk.path, "USD", desk.clock.now_ms()).id != first


def test_time_with_another_offset_is_the_same_moment(desk: Desk) -> None:
    desk.write(GOOD.replace("06:00:00Z", "07:00:00+01:00"))
    found = load_rates(desk.path, "USD", desk.clock.now_ms())
    assert found.as_of_ms == AS_OF_MS
    assert found.id.startswith("2026-01-31T06:00:00Z-")


def test_rates_cannot_be_changed(desk: Desk) -> None:
    found = load_rates(desk.path, "USD", desk.clock.now_ms())
    with pytest.raises(TypeError):
        found.per_unit["EUR"] = Decimal(2)  # type: ignore[index]


def test_without_a_file_nothing_is_convertible_and_the_reason_says_which_key() -> None:
    table = RateTable(None, "USD", 48, ManualClock())
    assert table.current() is None
    assert "auction.rates_file" in (table.unusable or "")


def test_usable_table_has_no_reason(desk: Desk) -> None:
    assert desk.open().unusable is None


def test_all_problems_of_a_file_are_told_at_once(desk: Desk) -> None:
    desk.write(
        'as_of = "today"\nbase = "USD"\n[rates]\nEUR = "1.1"\neur = 1.1\nGBP = -1\nUSD = 2\nCHF = true\nSEK = nan\n'
    )
    found = problems_of(desk)
    assert [problem.split(":")[0] for problem in found] == [
        "base",
        "as_of",
        "rates.EUR",
        "rates.eur",
        "rates.GBP",
        "rates.USD",
        "rates.CHF",
        "rates.SEK",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("as_of = ", "TOML"),
        ("", "as_of"),
        ("as_of = 2026-01-31T06:00:00\n[rates]\nEUR = 1.1\n", "offset"),
        ("as_of = 2026-01-31T06:00:00Z\n", "table of rates"),
        ("as_of = 2036-01-31T06:00:00Z\n[rates]\nEUR = 1.1\n", "future"),
        ("as_of = 0001-01-01T00:00:00+23:00\n[rates]\nEUR = 1.1\n", "before 2000"),
        ("as_of = 2026-01-31T06:00:00Z\n[rates]\nEUR = 1e99\n", "rates.EUR"),
        ("as_of = 2026-01-31T06:00:00Z\n[rates]\nEUR = 1e99999999999999999999\n", ""),
        (f"as_of = 2026-01-31T06:00:00Z\n[rates]\nEUR = 1.{'1' * 40}\n", "digits"),
        (f"as_of = 2026-01-31T06:00:00Z\n[rates]\nEUR = {'1' * 5_000}\n", ""),
        (f"as_of = {'[' * 100_000}", ""),
    ],
)
def test_broken_file_at_the_start_is_refused_with_a_reason(desk: Desk, text: str, words: str) -> None:
    desk.write(text)
    assert words in "\n".join(problems_of(desk))


def test_missing_file_at_the_start_is_refused(desk: Desk) -> None:
    desk.path.unlink()
    assert "cannot be read" in problems_of(desk)[0]


def test_stale_file_at_the_start_is_refused(tmp_path: Path) -> None:
    assert "auction.rates_max_age_hours" in problems_of(Desk(tmp_path, age_ms=48 * HOUR_MS + 1))[0]
    assert Desk(tmp_path, age_ms=48 * HOUR_MS).open().current() is not None


def test_rates_that_grow_old_are_not_used(desk: Desk) -> None:
    table = desk.open()
    desk.clock.advance(47 * HOUR_MS)
    assert table.current() is not None
    desk.clock.advance(1)
    assert table.current() is None
    assert "older than" in (table.unusable or "")


def test_going_stale_is_logged_once(desk: Desk) -> None:
    table = desk.open()
    with capture_logs() as logs:
        for _ in range(3):
            desk.clock.advance(47 * HOUR_MS + 1)
            table.current()
    assert [line["event"] for line in logs] == ["rates_stale"]


def test_changed_file_is_read_again(desk: Desk) -> None:
    table = desk.open()
    desk.write(GOOD.replace("1.0842", "2"))
    desk.clock.advance(LOOK_MS)
    found = table.current()
    assert found is not None
    assert found.per_unit["EUR"] == 2


def test_file_is_not_looked_at_for_every_reply(desk: Desk) -> None:
    table = desk.open()
    before = table.current()
    desk.write(GOOD.replace("1.0842", "2"))
    desk.clock.advance(LOOK_MS - 1)
    assert table.current() is before


def test_unchanged_file_is_not_read_again(desk: Desk) -> None:
    table = desk.open()
    before = table.current()
    desk.clock.advance(LOOK_MS)
    assert table.current() is before


def test_file_that_replaces_another_by_its_name_is_read(desk: Desk) -> None:
    table = desk.open()
    other = desk.path.with_name("new.toml")
    other.write_text(GOOD.replace("1.0842", "1.0843"), encoding="utf-8")
    os.utime(other, ns=(desk.writes, desk.writes))
    other.replace(desk.path)
    desk.clock.advance(LOOK_MS)
    found = table.current()
    assert found is not None
    assert found.per_unit["EUR"] == Decimal("1.0843")


@pytest.mark.parametrize("broken", ["as_of = ", None])
def test_broken_new_file_leaves_the_last_good_rates_and_is_logged_once(desk: Desk, broken: str | None) -> None:
    table = desk.open()
    before = table.current()
    if broken is None:
        desk.path.unlink()
    else:
        desk.write(broken)
    with capture_logs() as logs:
        for _ in range(3):
            desk.clock.advance(LOOK_MS)
            assert table.current() is before
    assert [line["event"] for line in logs] == ["rates_refused"]
    desk.write(GOOD.replace("1.0842", "3"))
    desk.clock.advance(LOOK_MS)
    found = table.current()
    assert found is not None
    assert found.per_unit["EUR"] == 3


def test_stale_rates_are_replaced_by_fresh_ones(desk: Desk) -> None:
    table = desk.open()
    desk.clock.advance(100 * HOUR_MS)
    assert table.current() is None
    desk.write(GOOD.replace("2026-01-31", "2026-02-04"))
    desk.clock.advance(LOOK_MS)
    assert table.current() is not None
    assert table.unusable is None


def test_age_is_a_metric(desk: Desk) -> None:
    table = desk.open()
    assert REGISTRY.get_sample_value("datastreamx_rates_age_seconds") == 3_600
    desk.clock.advance(LOOK_MS)
    table.current()
    assert REGISTRY.get_sample_value("datastreamx_rates_age_seconds") == 3_600 + LOOK_INTERVAL_S
