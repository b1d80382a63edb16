from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastreamx import metrics
from datastreamx.errors import CrashError, StateMismatchError
from datastreamx.model.log import LogBatch
from datastreamx.snapshots import seal
from datastreamx.wire.facts import FactBatch, encode_facts
from operators.repeats.marks import HighWaterMarks, Position
from operators.repeats.step import RepeatsLogic
from operators.viewing.state import KeyGroupState
from tests.builders import KEY_GROUP, T0, config, decoded, heartbeat

GOLDEN = Path(__file__).parent / "golden" / "repeats-snapshot-v2.msgpack"

Slot = tuple[int, str]


def batch(positions: list[Position], *, group: int = 0, table: str = "box_events") -> FactBatch:
    """Facts of which only the positions matter."""
    columns = {
        "source_offset": pa.array([offset for offset, _ in positions], pa.int64()),
        "ordinal": pa.array([ordinal for _, ordinal in positions], pa.int64()),
    }
    return FactBatch(table, 0, group, pa.record_batch(columns))


def positions(facts: FactBatch | None) -> list[Position]:
    if facts is None:
        return []
    columns = [facts.rows.column(name).to_pylist() for name in ("source_offset", "ordinal")]
    return list(zip(*columns, strict=True))


def test_repeat_is_dropped_and_news_is_kept() -> None:
    marks = HighWaterMarks()
    assert positions(marks.fresh(batch([(1, 0), (3, 0)]))) == [(1, 0), (3, 0)]
    assert marks.fresh(batch([(1, 0), (3, 0)])) is None
    assert positions(marks.fresh(batch([(3, 0), (4, 0)]))) == [(4, 0)]
    assert positions(marks.fresh(batch([(9, 0)]))) == [(9, 0)]


def test_rows_of_one_record_are_told_apart_by_ordinal() -> None:
    marks = HighWaterMarks()
    marks.fresh(batch([(5, 0), (5, 1)]))
    assert positions(marks.fresh(batch([(5, 0), (5, 1), (5, 2), (6, 0)]))) == [(5, 2), (6, 0)]


def test_groups_and_tables_have_their_own_marks() -> None:
    marks = HighWaterMarks()
    marks.fresh(batch([(5, 0)]))
    assert marks.fresh(batch([(5, 0)], group=1)) is not None
    assert marks.fresh(batch([(5, 0)], table="viewing_sessions")) is not None
    assert marks.fresh(batch([(5, 0)])) is None


@st.composite
def _facts_of_records(draw: st.DrawFn) -> list[dict[Slot, int]]:
    """Per record of a partition's log, how many rows it emits into each slot."""
    slots = st.tuples(st.integers(0, 2), st.sampled_from(["box_events", "viewing_sessions"]))
    return draw(st.lists(st.dictionaries(slots, st.integers(1, 3), max_size=3), min_size=1, max_size=25))


def _messages(log: list[dict[Slot, int]], start: int, end: int, cuts: list[int]) -> list[FactBatch]:
    """What a run over records `[start, end)` writes: one message per chunk and slot."""
    edges = sorted({start, end, *(start + cut % (end - start) for cut in cuts if end > start)})
    messages = []
    for first, last in itertools.pairwise(edges):
        rows: defaultdict[Slot, list[Position]] = defaultdict(list)
        for offset in range(first, last):
            for slot, count in log[offset].items():
                rows[slot] += [(10 + 3 * offset, ordinal) for ordinal in range(count)]
        messages += [batch(found, group=group, table=table) for (group, table), found in rows.items()]
    return messages


@settings(max_examples=300, deadline=None)
@given(_facts_of_records(), st.data())
def test_each_row_passes_once_and_in_order_whatever_is_replayed(
    log: list[dict[Slot, int]], data: st.DataObject
) -> None:
    """Runs die anywhere, each successor starts at or before that point and cuts its messages otherwise.

    The marks themselves are snapshotted and resumed anywhere, too.
    """
    cuts = st.lists(st.integers(0, 1_000), max_size=6)
    messages: list[FactBatch] = []
    start = 0
    for _ in range(data.draw(st.integers(0, 4), "crashes")):
        end = data.draw(st.integers(start, len(log)), "crash")
        messages += _messages(log, start, end, data.draw(cuts))
        # Messages are produced in order, so a crash takes from their end.
        messages = messages[: len(messages) - data.draw(st.integers(0, min(2, len(messages))), "lost")]
        start = data.draw(st.integers(0, start), "resume")
    messages += _messages(log, start, len(log), data.draw(cuts))

    marks = HighWaterMarks()
    passed: defaultdict[Slot, list[Position]] = defaultdict(list)
    for message in messages:
        passed[message.group, message.table] += positions(marks.fresh(message))
        if data.draw(st.booleans(), "resumed"):
            marks = HighWaterMarks(marks.snapshot())

    expected: defaultdict[Slot, list[Position]] = defaultdict(list)
    for offset, emitted in enumerate(log):
        for slot, count in emitted.items():
            expected[slot] += [(10 + 3 * offset, ordinal) for ordinal in range(count)]
    assert passed == expected


def _log_batch(*messages: FactBatch) -> LogBatch:
    encoded = [encode_facts(message) for message in messages]
    return LogBatch(
        "box-facts",
        0,
        list(range(len(messages))),
        [T0] * len(messages),
        [value for value, _ in encoded],
        [headers for _, headers in encoded],
    )


def _heartbeats(first: int, end: int) -> FactBatch:
    state = KeyGroupState(KEY_GROUP, config().viewing, "box-events", lambda _: "0" * 32)
    rows = state.process(decoded(*(heartbeat(at) for at in range(first, end)), first_offset=first)).events
    assert rows is not None
    return FactBatch("box_events", 0, 0, rows.columns())


def test_messages_are_decoded_and_dropped_repeats_are_counted() -> None:
    logic = RepeatsLogic(None)
    counter = metrics.WAREHOUSE_REPEATS_DROPPED.labels("box_events")
    before = counter._value.get()
    first, _ = logic.on_batch([_log_batch(_heartbeats(0, 4), _heartbeats(0, 4)), _log_batch(_heartbeats(2, 6))])
    assert [positions(facts) for facts in first] == [[(n, 0) for n in range(4)], [(4, 0), (5, 0)]]
    assert counter._value.get() == before + 6
    resumed = RepeatsLogic(logic.snapshot())
    again, _ = resumed.on_batch([_log_batch(_heartbeats(5, 7))])
    assert [positions(facts) for facts in again] == [[(6, 0)]]


def test_foreign_message_stops_the_flow() -> None:
    foreign = LogBatch("box-facts", 0, [0], [T0], [b"{}"], [[]])
    with pytest.raises(CrashError, match="is another program writing"):
        RepeatsLogic(None).on_batch([foreign])


def test_snapshot_bytes_are_an_interface() -> None:
    """A change here means that running deployments cannot resume: raise VERSION and keep a reader for the old one."""
    marks = HighWaterMarks()
    marks.fresh(batch([(5, 0), (421, 0)], group=1))
    marks.fresh(batch([(421, 0), (421, 1)], group=1, table="viewing_sessions"))
    assert marks.snapshot() == GOLDEN.read_bytes()
    assert HighWaterMarks(GOLDEN.read_bytes()).snapshot() == GOLDEN.read_bytes()


def test_snapshot_of_another_version_is_refused() -> None:
    with pytest.raises(StateMismatchError, match="version 1"):
        HighWaterMarks(seal(msgspec.msgpack.encode([1, {}])))


@pytest.mark.parametrize(
    "damage", [b"", *map(seal, [b"", b"\x00", b"\x92\x02", msgspec.msgpack.encode([2, {"0/t": [1]}])])]
)
def test_bytes_that_are_no_snapshot_are_refused(damage: Any) -> None:
    with pytest.raises(StateMismatchError):
        HighWaterMarks(damage)
