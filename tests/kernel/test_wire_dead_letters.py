from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastreamx.model.chunk import DeadLetter
from datastreamx.wire.dead_letters import REASONS, dead_letter_headers, parse_dead_letter

_LETTERS = st.builds(
    DeadLetter,
    reason=st.sampled_from(REASONS),
    detail=st.text(max_size=1024),
    topic=st.text(max_size=20),
    partition=st.integers(0, 1_000),
    offset=st.integers(0, 2**63 - 1),
    timestamp_ms=st.integers(-1, 2**62),
    key=st.none() | st.binary(max_size=20),
    value=st.none() | st.binary(max_size=50),
)


@given(_LETTERS)
def test_parse_inverts_headers_and_leaves_the_bytes_untouched(letter: DeadLetter) -> None:
    assert parse_dead_letter(letter.key, letter.value, dead_letter_headers(letter)) == letter


def test_headers_never_change_their_form() -> None:
    letter = DeadLetter("malformed", "why", "box-events", 3, 421, 1_700_000_000_000, b"stb-1", b"{")
    assert dead_letter_headers(letter) == [
        ("reason", b"malformed"),
        ("detail", b"why"),
        ("origin_topic", b"box-events"),
        ("origin_partition", b"3"),
        ("origin_offset", b"421"),
        ("origin_timestamp_ms", b"1700000000000"),
    ]


def test_detail_is_bounded() -> None:
    letter = DeadLetter("malformed", "\u00e9" * 5_000, "t", 0, 0, 0, None, None)
    assert parse_dead_letter(None, None, dead_letter_headers(letter)).detail == "\u00e9" * 1_024


@pytest.mark.parametrize("missing", range(6))
def test_message_without_a_header_is_no_dead_letter(missing: int) -> None:
    headers = dead_letter_headers(DeadLetter("malformed", "why", "t", 0, 0, 0, None, None))
    with pytest.raises(KeyError):
        parse_dead_letter(None, None, headers[:missing] + headers[missing + 1 :])


def test_message_with_a_header_that_is_no_number_is_no_dead_letter() -> None:
    headers = dead_letter_headers(DeadLetter("malformed", "why", "t", 0, 0, 0, None, None))
    with pytest.raises(ValueError, match="invalid literal"):
        parse_dead_letter(None, None, [*headers, ("origin_offset", b"five")])
