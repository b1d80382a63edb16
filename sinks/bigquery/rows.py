"""From many small record batches to few requests: joined, screened, cut to size. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from datastreamx.config.structs import TopicsConfig
from datastreamx.model.chunk import DeadLetter
from datastreamx.tables import Kind, Table

# Stream name, offset, trace id and, once per connection, the Arrow schema share the request with the rows.
REQUEST_OVERHEAD_BYTES = 16_384

# BigQuery takes partition times from 3,650 days ago to 366 days ahead. A set-top box that lost its clock reports 1970,
# so such rows are not rare; refused here they do not spoil the rest of their request. One day of margin either side
# covers the time between this check and BigQuery's.
_DAY_US = 86_400_000_000
PARTITION_PAST_US = 3_649 * _DAY_US
PARTITION_FUTURE_US = 364 * _DAY_US


class Block(NamedTuple):
    """Rows of one request and their Arrow IPC bytes."""

    rows: pa.RecordBatch
    body: bytes


class RefusedRow(NamedTuple):
    """One row that BigQuery will not take; `rows` holds it alone."""

    rows: pa.RecordBatch
    reason: str
    detail: str


@dataclass(slots=True)
class Packed:
    """Rows ready to be sent, in order, and rows that never will be."""

    blocks: list[Block] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)


def pack(batches: Sequence[pa.RecordBatch], table: Table, max_request_bytes: int, now_ms: int) -> Packed:
    """Join `batches` (at least one, all in the table's Arrow schema) and cut them into requests."""
    rows = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
    good, refused = screen(rows, table, now_ms)
    packed = Packed(refused=refused)
    for piece in _cut(good, max_request_bytes - REQUEST_OVERHEAD_BYTES):
        if isinstance(piece, Block):
            packed.blocks.append(piece)
        else:
            packed.refused.append(piece)
    return packed


def screen(rows: pa.RecordBatch, table: Table, now_ms: int) -> tuple[pa.RecordBatch, list[RefusedRow]]:
    """Set aside rows that BigQuery is known to refuse: a partition time out of bounds, NULL in a required column.

    The usual batch costs one pass over the partition column and is returned as it is.
    """
    problems: dict[int, str] = {}
    for column in table.columns:
        values = rows.column(column.name)
        if column.required and values.null_count:
            _note(problems, pc.is_null(values), f"{column.name} is required and has no value")
    times = rows.column(table.partition_by).cast(pa.int64())
    oldest, newest = now_ms * 1000 - PARTITION_PAST_US, now_ms * 1000 + PARTITION_FUTURE_US
    bounds = pc.min_max(times)
    if bounds["min"].is_valid and (bounds["min"].as_py() < oldest or bounds["max"].as_py() > newest):
        outside = pc.or_(pc.less(times, oldest), pc.greater(times, newest))
        _note(problems, outside, f"{table.partition_by} is more than 10 years old or 1 year ahead")
    if not problems:
        return rows, []
    refused = [RefusedRow(rows.slice(index, 1), "bigquery_row", problems[index]) for index in sorted(problems)]
    return without(rows, problems), refused


def without(rows: pa.RecordBatch, indices: dict[int, str]) -> pa.RecordBatch:
    """All rows but those at `indices`."""
    return rows.filter(pa.array([index not in indices for index in range(rows.num_rows)]))


def encode(rows: pa.RecordBatch) -> bytes:
    """Arrow IPC message of the rows, without schema and uncompressed, as AppendRows expects it."""
    body: bytes = rows.serialize().to_pybytes()
    return body


def dead_letter(refused: RefusedRow, table: Table, topics: TopicsConfig) -> DeadLetter:
    """Dead letter of a row: JSON of table and row (timestamps in microseconds), traced to the record it came from.

    Rows of aggregates stem from many records; their partition and offset are -1.
    """
    columns = [
        values.cast(pa.int64()) if column.kind is Kind.TIMESTAMP else values
        for column, values in zip(table.columns, refused.rows.columns, strict=True)
    ]
    row: dict[str, Any] = {
        column.name: values[0].as_py() for column, values in zip(table.columns, columns, strict=True)
    }
    topic, partition, offset = "", None, None
    if "source_offset" in row:
        topic, partition, offset = topics.events, row["source_partition"], row["source_offset"]
    elif "log_offset" in row:
        topic, partition, offset = topics.decisions, row["log_partition"], row["log_offset"]
    return DeadLetter(
        reason=refused.reason,
        detail=f"{table.name}: {refused.detail}",
        topic=topic,
        partition=-1 if partition is None else partition,
        offset=-1 if offset is None else offset,
        timestamp_ms=(row[table.partition_by] or 0) // 1000,
        key=None,
        value=msgspec.json.encode({"table": table.name, "row": row}),
    )


def _note(problems: dict[int, str], mask: pa.Array, message: str) -> None:
    for index in pc.indices_nonzero(mask).to_pylist():
        problems.setdefault(index, message)


def _cut(rows: pa.RecordBatch, max_body_bytes: int) -> Iterator[Block | RefusedRow]:
    """Near-equal pieces of at most `max_body_bytes`; a row that is larger alone is refused."""
    if not rows.num_rows:
        return
    # Padding and buffer headers come on top of the data, hence the 5 % of room.
    pieces = ceil(rows.nbytes / (max_body_bytes * 0.95)) or 1
    step = ceil(rows.num_rows / pieces)
    for start in range(0, rows.num_rows, step):
        yield from _halved(rows.slice(start, step), max_body_bytes)


def _halved(rows: pa.RecordBatch, max_body_bytes: int) -> Iterator[Block | RefusedRow]:
    body = encode(rows)
    if len(body) <= max_body_bytes:
        yield Block(rows, body)
    elif rows.num_rows == 1:
        yield RefusedRow(rows, "oversized", f"one row takes {len(body)} bytes, a request holds {max_body_bytes}")
    else:
        half = rows.num_rows // 2
        yield from _halved(rows.slice(0, half), max_body_bytes)
        yield from _halved(rows.slice(half), max_body_bytes)
