"""Decimal prices become integer micros without ever gaining or losing one."""

from __future__ import annotations

import contextlib
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.contract import ReplyError
from aggregators.money import MAX_PRICE_MICROS, decimal_text, micros_of

Micros = st.integers(min_value=0, max_value=MAX_PRICE_MICROS)


@settings(deadline=None)
@given(micros=Micros)
def test_reading_inverts_writing(micros: int) -> None:
    assert micros_of(decimal_text(micros).encode()) == micros


@settings(deadline=None)
@given(micros=st.integers(min_value=0, max_value=MAX_PRICE_MICROS - 1), rest=st.integers(0, 10**30 - 1))
def test_what_is_below_a_micro_never_adds_to_the_price(micros: int, rest: int) -> None:
    whole, fraction = divmod(micros, 1_000_000)
    assert micros_of(f"{whole}.{fraction:06d}{rest:030d}".encode()) == micros


@settings(deadline=None)
@given(number=st.floats(min_value=0, max_value=1e8))
def test_the_text_of_any_float_is_read_exactly(number: float) -> None:
    assert micros_of(repr(number).encode()) == int(Decimal(repr(number)) * 1_000_000)


@pytest.mark.parametrize("text", ["1.005", "0.1", "4.35", "1.15", "8.29"])
def test_prices_that_floats_get_wrong_are_right(text: str) -> None:
    assert micros_of(text.encode()) * 10 == round(Decimal(text) * 10_000_000)


@settings(deadline=None)
@given(text=st.binary(max_size=80))
def test_anything_else_is_a_reply_error(text: bytes) -> None:
    with contextlib.suppress(ReplyError):
        assert 0 <= micros_of(text) <= MAX_PRICE_MICROS


@pytest.mark.parametrize(("micros", "text"), [(0, "0"), (1, "0.000001"), (10_000_000, "10"), (11_250_000, "11.25")])
def test_written_prices_have_neither_exponent_nor_idle_zeros(micros: int, text: str) -> None:
    assert decimal_text(micros) == text


@pytest.mark.parametrize(
    "text", [b"1_000", b" 1", b"1 ", b"+1", b"1.", b".5", b"0x10", b"1e", b"", b"NaN", b"Infinity"]
)
def test_notations_that_only_python_reads_are_refused(text: bytes) -> None:
    with pytest.raises(ReplyError, match="no number"):
        micros_of(text)


@pytest.mark.parametrize("text", [b"1e99999999999999999999", b"1e-99999999999999999999", b"9" * 65])
def test_numbers_of_no_size_are_refused_and_not_computed(text: bytes) -> None:
    with contextlib.suppress(ReplyError):
        assert micros_of(text) == 0
