"""Which rows of an append BigQuery would refuse, and why. Pure: Arrow in, findings out."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterator

# Bounds of a partitioning column, relative to now: "Streaming data into partitioned tables" in Google's documentation.
PARTITION_DAYS_PAST_MAX = 3650
PARTITION_DAYS_FUTURE_MAX = 366


class ExtraFieldsError(ValueError):
    """The rows have columns that the table does not have."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """One refused row: its index in the request and the reason."""

    index: int
    message: str


def align(rows: pa.Table, target: pa.Schema) -> pa.Table:
    """Bring rows into the table's columns, order and types; columns that are missing become NULL.

    Raises:
        ExtraFieldsError: There is a column that the table does not have.
        ValueError: A value does not fit the column's type.
    """
    extra = [name for name in rows.column_names if name not in target.names]
    if extra:
        raise ExtraFieldsError(f"Input schema has more fields than BigQuery schema, extra fields: '{','.join(extra)}'")
    columns = [
        rows.column(field.name).cast(field.type).combine_chunks()
        if field.name in rows.column_names
        else pa.nulls(rows.num_rows, field.type)
        for field in target
    ]
    # Nullability is judged row by row in `bad_rows`; Arrow itself would refuse the whole batch.
    return pa.table(columns, schema=pa.schema([field.with_nullable(True) for field in target]))


def bad_rows(rows: pa.Table, target: pa.Schema, partition_column: str | None, now: dt.datetime) -> list[BadRow]:
    """Every row that breaks a rule, at most once, in order.

    Args:
        rows: Aligned with `target`.
        target: The table's schema; `nullable=False` marks REQUIRED, metadata `bq_type` the BigQuery type.
        partition_column: The column whose time decides the partition, if there is one.
        now: Current time with a time zone.
    """
    found: dict[int, str] = {}
    for field in target:
        column = rows.column(field.name)
        if not field.nullable:
            for index in _indices(pc.is_null(column)):
                found.setdefault(index, f"Field {field.name}: required field has no value")
        if (field.metadata or {}).get(b"bq_type") == b"JSON":
            for index in _invalid_json(column):
                found.setdefault(index, f"Field {field.name}: not valid JSON")
        if field.name == partition_column:
            for index in _out_of_bounds(column, now):
                found.setdefault(
                    index,
                    f"The value for field {field.name} is outside the allowed bounds. You can only stream to date "
                    f"range within {PARTITION_DAYS_PAST_MAX} days in the past and {PARTITION_DAYS_FUTURE_MAX} days in "
                    "the future relative to the current date.",
                )
    return [BadRow(index, found[index]) for index in sorted(found)]


def _indices(mask: pa.ChunkedArray) -> list[int]:
    indices: list[int] = pc.indices_nonzero(mask).to_pylist()
    return indices


def _invalid_json(column: pa.ChunkedArray) -> Iterator[int]:
    if not pa.types.is_string(column.type):
        return
    for index, value in enumerate(column.to_pylist()):
        if value is None:
            continue
        try:
            orjson.loads(value)
        except orjson.JSONDecodeError:
            yield index


def _out_of_bounds(column: pa.ChunkedArray, now: dt.datetime) -> list[int]:
    kind = column.type
    first = (now - dt.timedelta(days=PARTITION_DAYS_PAST_MAX)).date()
    last = (now + dt.timedelta(days=PARTITION_DAYS_FUTURE_MAX)).date()
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return []
    days = column.cast(pa.date32())
    return _indices(pc.fill_null(pc.or_(pc.less(days, pa.scalar(first)), pc.greater(days, pa.scalar(last))), False))
