"""High-water marks: exact, because a replay repeats facts in the same order. No per-row Python."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from datastreamx.snapshots import decode_versioned, encode_versioned
from datastreamx.wire.facts import FactBatch

VERSION = 2

Position = tuple[int, int]
"""(source_offset, ordinal) of a row."""


class _Snapshot(msgspec.Struct, array_like=True):
    version: int
    marks: dict[str, Position]


_DECODER = msgspec.msgpack.Decoder(_Snapshot)


class HighWaterMarks:
    """Position of the last row delivered, per key group and table, for one source partition."""

    def __init__(self, snapshot: bytes | None = None) -> None:
        self._marks: dict[str, Position] = {}
        if snapshot is not None:
            self._marks = decode_versioned(snapshot, _DECODER, VERSION, "high-water marks").marks

    def fresh(self, facts: FactBatch) -> FactBatch | None:
        """The rows behind the mark, which moves to the last of them; `None` if all are repeats."""
        rows = facts.rows
        slot = f"{facts.group}/{facts.table}"
        mark = self._marks.get(slot)
        last = _position(rows, rows.num_rows - 1)
        if mark is None or _position(rows, 0) > mark:
            self._marks[slot] = last
            return facts
        if last <= mark:
            return None
        self._marks[slot] = last
        offsets, ordinals = rows.column("source_offset"), rows.column("ordinal")
        same = pc.and_(pc.equal(offsets, mark[0]), pc.greater(ordinals, mark[1]))
        behind = pc.or_(pc.greater(offsets, mark[0]), same)
        count = pc.sum(behind).as_py()
        return FactBatch(facts.table, facts.partition, facts.group, rows.slice(rows.num_rows - count))

    def snapshot(self) -> bytes:
        """Sealed, versioned bytes of the marks."""
        return encode_versioned(_Snapshot(VERSION, self._marks))


def _position(rows: pa.RecordBatch, index: int) -> Position:
    return rows.column("source_offset")[index].as_py(), rows.column("ordinal")[index].as_py()
