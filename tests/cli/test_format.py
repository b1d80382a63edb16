from __future__ import annotations

import pytest

from datastreamx.cli.format import cpm, duration, one_line, plural, size, utc


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_000, "1.0 s"),
        (59_999, "59.9 s"),
        (60_000, "1 min 0 s"),
        (3_599_999, "59 min 59 s"),
        (3_600_000, "1 h 0 min"),
        (90_061_000, "1 d 1 h"),
        (-1_500, "-1.5 s"),
    ],
)
def test_duration_keeps_two_units(ms: int, text: str) -> None:
    assert duration(ms) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (1 << 50, "1024.0 TiB")]
)
def test_size_takes_the_largest_unit_that_fits(count: int, text: str) -> None:
    assert size(count) == text


def test_price_is_told_per_thousand_displays() -> None:
    assert cpm(4_250_000, "USD") == "4.25 USD"
    assert cpm(4_250_000, None) == "4.25"


def test_time_keeps_its_milliseconds() -> None:
    assert utc(1_700_000_000_007) == "2023-11-14 22:13:20.007 UTC"


def test_plural_and_one_line() -> None:
    assert plural(1, "box", "boxes") == "1 box"
    assert plural(1_200, "box", "boxes") == "1,200 boxes"
    assert one_line("a\n  b\tc ") == "a b c"
