from __future__ import annotations

import msgspec
import pytest

from datastreamx.errors import ConfigError, StateMismatchError
from sources.kafka.positions import Layout, decode_positions, encode_positions
from sources.kafka.start import PartitionId, StartPosition, Watermarks, first_offset, split_among

LAYOUT = Layout(topics=("facts", "decisions"), partitions=(1, 3), partition_count=4, groups_per_partition=2)
POSITIONS: dict[PartitionId, int] = {("facts", 1): 10, ("facts", 3): 0, ("decisions", 1): 5, ("decisions", 3): 2**40}


def test_decoding_inverts_encoding() -> None:
    assert decode_positions(encode_positions(LAYOUT, POSITIONS), LAYOUT) == POSITIONS


def test_the_bytes_of_version_1_are_read_for_ever() -> None:
    written = (
        b'{"v":1,"layout":{"topics":["facts","decisions"],"partitions":[1,3],"partition_count":4,'
        b'"groups_per_partition":2},"offsets":{"facts":{"1":10,"3":0},"decisions":{"1":5,"3":1099511627776}}}'
    )
    assert decode_positions(written, LAYOUT) == POSITIONS
    assert encode_positions(LAYOUT, POSITIONS) == written


@pytest.mark.parametrize(
    "change",
    [
        {"topics": ("facts", "other")},
        {"partitions": (1, 2)},
        {"partition_count": 8},
        {"groups_per_partition": 3},
    ],
)
def test_any_other_layout_is_refused_and_both_are_named(change: dict[str, object]) -> None:
    other = msgspec.structs.replace(LAYOUT, **change)
    with pytest.raises(StateMismatchError) as caught:
        decode_positions(encode_positions(LAYOUT, POSITIONS), other)
    (value,) = change.values()
    described = " and ".join(value) if change.keys() == {"topics"} else value  # type: ignore[arg-type]  # topics
    described = list(described) if isinstance(described, tuple) else described
    assert str(described) in str(caught.value).split("but the configuration says")[1]


@pytest.mark.parametrize("raw", [b"", b"not json", b'{"v":2,"anything":"else"}', b'{"v":1}', b'{"offsets":{}}'])
def test_bytes_of_another_version_or_nature_are_refused(raw: bytes) -> None:
    with pytest.raises(StateMismatchError):
        decode_positions(raw, LAYOUT)


def test_a_snapshot_without_an_owned_partition_is_refused() -> None:
    incomplete = encode_positions(LAYOUT, {("facts", 1): 10, ("facts", 3): 0, ("decisions", 1): 5})
    with pytest.raises(StateMismatchError, match=r"lacks the offsets of decisions\[3\]"):
        decode_positions(incomplete, LAYOUT)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("beginning", StartPosition("beginning")),
        ("end", StartPosition("end")),
        ("offset:42", StartPosition("offset", 42)),
        ("timestamp:1700000000000", StartPosition("timestamp", 1_700_000_000_000)),
    ],
)
def test_a_start_is_parsed(text: str, position: StartPosition) -> None:
    assert StartPosition.parse(text) == position


@pytest.mark.parametrize("text", ["", "start", "offset:", "offset:-1", "timestamp:x", "end:1", "beginning\n"])
def test_anything_else_is_no_start(text: str) -> None:
    with pytest.raises(ConfigError, match="offset:N"):
        StartPosition.parse(text)


def test_the_first_offset_is_always_a_number() -> None:
    marks = Watermarks(10, 20)
    assert first_offset(StartPosition("beginning"), marks, None) == 10
    assert first_offset(StartPosition("end"), marks, None) == 20
    assert first_offset(StartPosition("offset", 15), marks, None) == 15
    assert first_offset(StartPosition("timestamp", 1), marks, 12) == 12
    assert first_offset(StartPosition("timestamp", 1), marks, None) == 20


def test_readers_share_all_partitions_by_remainder_and_any_others_evenly() -> None:
    assert split_among(range(7), 3) == [(0, 3, 6), (1, 4), (2, 5)]
    # The partitions of cell 1 of 4: by remainder, one of two readers would get none.
    assert split_among([1, 5, 9, 13], 2) == [(1, 9), (5, 13)]
