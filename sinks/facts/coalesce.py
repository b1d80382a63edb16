"""Gather small fact batches into messages worth their overhead. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from datastreamx.wire.facts import FactBatch

ROWS_MAX = 4_000
# Brokers refuse above 1,048,588 bytes by default; leave room for headers and for what Arrow adds around the buffers.
BYTES_MAX = 900_000
AGE_MS_MAX = 200

_Slot = tuple[int, int, str]


class _Gathered:
    """Batches of one (partition, key group, table), oldest first."""

    __slots__ = ("batches", "bytes", "rows", "since_s")

    def __init__(self, since_s: float) -> None:
        self.batches: list[pa.RecordBatch] = []
        self.rows = 0
        self.bytes = 0
        self.since_s = since_s


class Coalescer:
    """Holds fact batches until a message is full or old enough.

    The order of the rows of one (partition, key group, table) is kept; the loader's high-water mark rests on it.
    """

    def __init__(self, *, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX, age_ms_max: int = AGE_MS_MAX) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._age_s_max = age_ms_max / 1000
        self._gathered: dict[_Slot, _Gathered] = {}

    def add(self, facts: FactBatch, now_s: float) -> Iterator[FactBatch]:
        """Take a batch; yields what is full by it, in order. Consume the iterator before the next call.

        Args:
            facts: Rows of one table and key group.
            now_s: A clock that never steps.
        """
        slot = (facts.partition, facts.group, facts.table)
        for piece in self._pieces(facts.rows):
            if slot in self._gathered and self._would_overflow(self._gathered[slot], piece):
                yield self._take(slot)
            held = self._gathered.setdefault(slot, _Gathered(now_s))
            held.batches.append(piece)
            held.rows += piece.num_rows
            held.bytes += int(piece.nbytes)
            if held.rows >= self._rows_max or held.bytes >= self._bytes_max:
                yield self._take(slot)

    def due(self, now_s: float) -> list[FactBatch]:
        """Everything, once the oldest has waited long enough: one request then carries all of a partition."""
        oldest = next(iter(self._gathered.values()), None)
        return self.drain() if oldest is not None and now_s - oldest.since_s >= self._age_s_max else []

    def drain(self) -> list[FactBatch]:
        """Everything."""
        return [self._take(slot) for slot in list(self._gathered)]

    def _would_overflow(self, held: _Gathered, piece: pa.RecordBatch) -> bool:
        return held.rows + piece.num_rows > self._rows_max or held.bytes + int(piece.nbytes) > self._bytes_max

    def _take(self, slot: _Slot) -> FactBatch:
        held = self._gathered.pop(slot)
        rows = held.batches[0] if len(held.batches) == 1 else pa.concat_batches(held.batches)
        partition, group, table = slot
        return FactBatch(table=table, partition=partition, group=group, rows=rows)

    def _pieces(self, rows: pa.RecordBatch) -> list[pa.RecordBatch]:
        """`rows`, cut until each piece fits into a message; a single row is never cut, no row makes no piece."""
        if rows.num_rows == 0:
            return []
        if rows.num_rows == 1 or (rows.num_rows <= self._rows_max and int(rows.nbytes) <= self._bytes_max):
            return [rows]
        half = rows.num_rows // 2
        return [*self._pieces(rows.slice(0, half)), *self._pieces(rows.slice(half))]
