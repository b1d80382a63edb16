from __future__ import annotations

import msgspec
import pytest

from datastreamx.errors import ConfigError, StateMismatchError
from datastreamx.snapshots import seal
from sources.kafka.positions import Layout, Positions, decode_positions, merge, read_positions, split
from sources.kafka.start import PartitionId, StartPosition, Watermarks, first_offset, split_among
from sources.kafka.witness import Lineage

LAYOUT = Layout(topics=("facts", "decisions"), partitions=(1, 3), partition_count=4, groups_per_partition=2)
OFFSETS: dict[PartitionId, int] = {("facts", 1): 10, ("facts", 3): 0, ("decisions", 1): 5, ("decisions", 3): 2**40}
LINEAGES = {1: Lineage(id="0a1b2c3d", taken=7), 3: Lineage(id="ffff0000", taken=9, instead_of="0a1b2c3d")}
POSITIONS = Positions.of(LAYOUT, OFFSETS, LINEAGES)


def test_decoding_inverts_encoding() -> None:
    assert decode_positions(POSITIONS.seal(), LAYOUT) == POSITIONS
    assert POSITIONS.next_offsets == OFFSETS


def test_the_bytes_of_version_2_are_read_for_ever() -> None:
    written = (
        b'{"v":2,"layout":{"topics":["facts","decisions"],"partitions":[1,3],"partition_count":4,'
        b'"groups_per_partition":2},"offsets":{"facts":{"1":10,"3":0},"decisions":{"1":5,"3":1099511627776}},'
        b'"lineages":{"1":{"id":"0a1b2c3d","taken":7,"instead_of":null},'
        b'"3":{"id":"ffff0000","taken":9,"instead_of":"0a1b2c3d"}}}'
    )
    assert decode_positions(seal(written), LAYOUT) == POSITIONS
    assert POSITIONS.seal() == seal(written)


def test_what_a_lineage_has_replaced_survives_a_restart() -> None:
    lineages = {**LINEAGES, 1: Lineage(id="0a1b2c3d", instead_at={"facts": 12})}
    read = read_positions(Positions.of(LAYOUT, OFFSETS, lineages).seal())
    assert read.lineages == lineages
    assert {one: held.replaced_at for one, held in read.held.items() if held.replaced_at} == {("facts", 1): 12}


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
        decode_positions(POSITIONS.seal(), other)
    (value,) = change.values()
    described = " and ".join(value) if change.keys() == {"topics"} else value  # type: ignore[arg-type]  # topics
    described = list(described) if isinstance(described, tuple) else described
    assert str(described) in str(caught.value).split("but the configuration says")[1]


@pytest.mark.parametrize("raw", [b"", b"not json", b'{"v":1,"anything":"else"}', b'{"v":2}', b'{"offsets":{}}'])
def test_bytes_of_another_version_or_nature_are_refused(raw: bytes) -> None:
    with pytest.raises(StateMismatchError, match="source's snapshot"):
        decode_positions(seal(raw), LAYOUT)


def test_a_flipped_bit_is_refused() -> None:
    raw = bytearray(POSITIONS.seal())
    raw[-20] ^= 1
    with pytest.raises(StateMismatchError, match="checksum"):
        decode_positions(bytes(raw), LAYOUT)


def test_a_snapshot_without_an_owned_partition_or_its_lineage_is_refused() -> None:
    incomplete = Positions.of(LAYOUT, {one: n for one, n in OFFSETS.items() if one != ("decisions", 3)}, LINEAGES)
    with pytest.raises(StateMismatchError, match=r"lacks .* decisions\[3\]"):
        read_positions(incomplete.seal())
    rootless = Positions.of(LAYOUT, OFFSETS, {1: LINEAGES[1]})
    with pytest.raises(StateMismatchError, match=r"lacks .* facts\[3\], decisions\[3\]"):
        read_positions(rootless.seal())


def layout(*partitions: int) -> Layout:
    return msgspec.structs.replace(LAYOUT, partitions=partitions)


def positions(*partitions: int) -> Positions:
    """Every partition with offsets and a lineage of its own."""
    offsets = {("facts", p): p * 10 for p in partitions} | {("decisions", p): p for p in partitions}
    return Positions.of(layout(*partitions), offsets, {p: Lineage(id=f"id-{p}", taken=p) for p in partitions})


def test_two_cells_become_three_and_every_partition_keeps_its_place_and_history() -> None:
    whole = merge([positions(1, 3), positions(0, 2)])
    assert whole == positions(0, 1, 2, 3)
    assert split(whole, [layout(0, 3), layout(1), layout(2)]) == [positions(0, 3), positions(1), positions(2)]


def test_stores_that_overlap_or_do_not_belong_together_are_not_merged() -> None:
    with pytest.raises(StateMismatchError, match=r"two .* hold the partitions \[1\]"):
        merge([positions(0, 1), positions(1, 2)])
    other = positions(2, 3)
    other = msgspec.structs.replace(other, layout=msgspec.structs.replace(other.layout, groups_per_partition=5))
    with pytest.raises(StateMismatchError, match=r"2 key groups .* 5 key groups"):
        merge([positions(0, 1), other])


def test_new_readers_have_to_share_out_exactly_what_there_is() -> None:
    whole = positions(0, 1, 2)
    with pytest.raises(StateMismatchError, match=r"lack the partitions \[3\]"):
        split(whole, [layout(0, 1), layout(2, 3)])
    with pytest.raises(StateMismatchError, match=r"would read the partitions \[0, 1\], .* \[0, 1, 2\]"):
        split(whole, [layout(0, 1)])
    with pytest.raises(StateMismatchError, match=r"would read the partitions \[0, 0, 1, 2\]"):
        split(whole, [layout(0, 1), layout(0, 2)])
    with pytest.raises(StateMismatchError, match="8 partitions"):
        split(whole, [msgspec.structs.replace(layout(0, 1, 2), partition_count=8)])


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
