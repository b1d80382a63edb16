from __future__ import annotations

from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main
from hypothesis import given, settings
from hypothesis import strategies as st

from datastreamx.model.chunk import Chunk, DeadLetter, DecodedChunk
from datastreamx.wire.events import encode_event
from operators.decode import decode
from operators.decode.records import decode_chunk
from tests.builders import T0, chunk, config, heartbeat, tune

SKEW_MS = 5_000


def one(key: bytes | None, value: bytes | None, timestamp_ms: int = T0) -> DecodedChunk:
    return decode_chunk(Chunk(3, 1, [7], [timestamp_ms], [key], [value]), "box-events", SKEW_MS)


def reason(decoded: DecodedChunk) -> str:
    (letter,) = decoded.dead_letters
    assert decoded.events == []
    return letter.reason


def test_event_keeps_its_place_in_the_log() -> None:
    decoded = decode_chunk(chunk(tune(0), heartbeat(5), partition=3, group=1, first_offset=40), "box-events", SKEW_MS)
    assert [*zip(decoded.offsets, decoded.timestamps_ms, decoded.events, strict=True)] == [
        (40, T0, tune(0)),
        (41, T0 + 5, heartbeat(5)),
    ]
    assert (decoded.partition, decoded.group) == (3, 1)
    assert decoded.dead_letters == []


def test_clock_ahead_by_the_allowed_skew_is_believed_and_by_more_is_not() -> None:
    value = encode_event(tune(SKEW_MS))
    assert one(b"stb-1", value).dead_letters == []
    assert reason(one(b"stb-1", value, T0 - 1)) == "clock_skew"


def test_clock_that_is_behind_is_no_reason_to_refuse_an_event() -> None:
    assert len(one(b"stb-1", encode_event(tune(0)), T0 + 86_400_000).events) == 1


@pytest.mark.parametrize("key", [None, b"", b"stb-2", b"STB-1", b"stb-1 "])
def test_key_other_than_the_box_id_is_a_mismatch(key: bytes | None) -> None:
    assert reason(one(key, encode_event(tune(0)))) == "key_mismatch"


def test_key_is_compared_as_utf8() -> None:
    assert len(one("d\u00e9codeur".encode(), encode_event(tune(0, box="d\u00e9codeur"))).events) == 1


def test_tombstone_is_a_dead_letter() -> None:
    assert reason(one(b"stb-1", None)) == "no_value"


def test_dead_letter_carries_origin_and_original_bytes() -> None:
    (letter,) = one(b"\xffkey", b"\xffvalue", T0 + 3).dead_letters
    assert letter == DeadLetter(
        "malformed", letter.detail, "box-events", 3, 7, T0 + 3, key=b"\xffkey", value=b"\xffvalue"
    )


_MAKERS: dict[str, st.SearchStrategy[tuple[bytes | None, bytes | None, int]]] = {
    "sound": st.just((b"stb-1", encode_event(tune(0)), T0)),
    "clock_skew": st.just((b"stb-1", encode_event(tune(SKEW_MS + 1)), T0)),
    "key_mismatch": st.tuples(st.none() | st.binary(max_size=4), st.just(encode_event(tune(0))), st.just(T0)),
    "no_value": st.tuples(st.none() | st.binary(max_size=4), st.none(), st.just(T0)),
    "unknown_type": st.just((b"stb-1", encode_event(tune(0)).replace(b'"tune"', b'"zap"'), T0)),
    "invalid": st.just((b"stb-1", b"{}", T0)),
    "oversized": st.just((b"stb-1", b" " * 16_385, T0)),
    "malformed": st.tuples(st.none() | st.binary(max_size=4), st.just(b"\xff"), st.just(T0)),
}
_MIX = st.lists(
    st.sampled_from(sorted(_MAKERS)).flatmap(lambda kind: _MAKERS[kind].map(lambda record: (kind, *record))),
    min_size=1,
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(_MIX, st.integers(0, 2**40))
def test_every_record_ends_in_exactly_one_list_in_log_order(
    mix: list[tuple[str, bytes | None, bytes | None, int]], first_offset: int
) -> None:
    offsets = [first_offset + 2 * index for index in range(len(mix))]
    decoded = decode_chunk(
        Chunk(
            0,
            0,
            offsets,
            [timestamp_ms for *_, timestamp_ms in mix],
            [key for _, key, _, _ in mix],
            [value for _, _, value, _ in mix],
        ),
        "box-events",
        SKEW_MS,
    )
    kinds = dict(zip(offsets, mix, strict=True))
    assert decoded.offsets == [at for at in offsets if kinds[at][0] == "sound"]
    assert [(letter.offset, letter.reason, letter.key, letter.value) for letter in decoded.dead_letters] == [
        (at, kind, key, value) for at, (kind, key, value, _) in kinds.items() if kind != "sound"
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.none() | st.binary(max_size=9), st.none() | st.binary(max_size=40)), min_size=1))
def test_arbitrary_records_are_all_accounted_for(mix: list[tuple[bytes | None, bytes | None]]) -> None:
    offsets = list(range(len(mix)))
    given_chunk = Chunk(0, 0, offsets, [T0] * len(mix), [key for key, _ in mix], [value for _, value in mix])
    decoded = decode_chunk(given_chunk, "box-events", SKEW_MS)
    places = decoded.offsets + [letter.offset for letter in decoded.dead_letters]
    assert sorted(places) == offsets


def test_dead_letters_leave_by_their_own_stream() -> None:
    bad = Chunk(0, 1, [10, 11, 12], [T0] * 3, [b"stb-1", b"stb-1", None], [b"{", encode_event(tune(0)), None])
    chunks: list[tuple[str, DecodedChunk]] = []
    letters: list[tuple[str, DeadLetter]] = []
    flow = Dataflow("decoding")
    items: list[Any] = [("p000g1", bad), ("p000g0", chunk(tune(1)))]
    out = decode("decode", op.input("in", flow, TestingSource(items)), config())
    op.output("chunks", out.chunks, TestingSink(chunks))
    op.output("dead_letters", out.dead_letters, TestingSink(letters))
    run_main(flow)
    assert [(key, found.offsets) for key, found in chunks] == [
        ("p000g1", [11]),
        ("p000g0", [0]),
    ]
    assert [(key, letter.offset, letter.reason) for key, letter in letters] == [
        ("p000g1", 10, "malformed"),
        ("p000g1", 12, "no_value"),
    ]
