"""Gather small fact batches into messages worth their overhead. Pure."""

from __future__ import annotations

import pyarrow as pa

from datastreamx.model.facts import Facts
from datastreamx.wire.facts import FactBatch, in_columns

ROWS_MAX = 4_000
# Brokers refuse above 1,048,588 bytes by default; leave room for headers and for what Arrow adds around the buffers.
BYTES_MAX = 900_000
AGE_MS_MAX = 200

_Slot = tuple[int, int, str]


class _Gathered:
    """Facts of one (partition, key group, table), oldest first."""

    __slots__ = ("pieces", "rows", "since_s")

    def __init__(self, since_s: float) -> None:
        self.pieces: list[Facts] = []
        self.rows = 0
        self.since_s = since_s


class Coalescer:
    """Holds facts until a message is full or old enough; columns are built then.

    The order of the rows of one (partition, key group, table) is kept; the loader's high-water mark rests on it.
    """

    def __init__(self, *, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX, age_ms_max: int = AGE_MS_MAX) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._age_s_max = age_ms_max / 1000
        self._gathered: dict[_Slot, _Gathered] = {}

    def add(self, facts: Facts, now_s: float) -> list[FactBatch]:
        """Take rows; returns what is full by them, in order.

        Args:
            facts: Rows of one table and key group.
            now_s: A clock that never steps.
        """
        slot, rows = (facts.partition, facts.group, facts.table), facts.rows.num_rows
        held = self._gathered.get(slot)
        full: list[FactBatch] = []
        if held is not None and held.rows + rows > self._rows_max:
            full = self._take(slot)
            held = None
        if held is None:
            held = self._gathered[slot] = _Gathered(now_s)
        held.pieces.append(facts)
        held.rows += rows
        return [*full, *self._take(slot)] if held.rows >= self._rows_max else full

    def due(self, now_s: float) -> list[FactBatch]:
        """Everything, once the oldest has waited long enough: one request then carries all of a partition."""
        oldest = next(iter(self._gathered.values()), None)
        return self.drain() if oldest is not None and now_s - oldest.since_s >= self._age_s_max else []

    def drain(self) -> list[FactBatch]:
        """Everything."""
        return [batch for slot in list(self._gathered) for batch in self._take(slot)]

    def _take(self, slot: _Slot) -> list[FactBatch]:
        batch = in_columns(self._gathered.pop(slot).pieces)
        return [FactBatch(batch.table, batch.partition, batch.group, piece) for piece in self._pieces(batch.rows)]

    def _pieces(self, rows: pa.RecordBatch) -> list[pa.RecordBatch]:
        """`rows`, cut until each piece fits into a message; a single row is never cut, no row makes no piece."""
        if rows.num_rows == 0:
            return []
        if rows.num_rows == 1 or (rows.num_rows <= self._rows_max and int(rows.nbytes) <= self._bytes_max):
            return [rows]
        half = rows.num_rows // 2
        return [*self._pieces(rows.slice(0, half)), *self._pieces(rows.slice(half))]
