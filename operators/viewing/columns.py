"""Rows that the viewing operator emits, gathered as tuples in column order and turned into Arrow record batches."""

from __future__ import annotations

import pyarrow as pa

from datastreamx.tables import Table

Row = tuple[object, ...]


def record_batch(table: Table, rows: list[Row]) -> pa.RecordBatch:
    """Record batch of rows whose values stand in the table's column order; timestamps are microseconds."""
    schema = table.arrow_schema
    columns = zip(*rows, strict=True)
    return pa.record_batch(
        [pa.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
    )
