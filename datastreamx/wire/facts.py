"""Topic `box-facts`: one Arrow record batch per message, its table and schema version in the headers.

The value is the batch in Arrow's IPC encapsulated message format without the schema, which both sides take from
`datastreamx.tables`: a schema in each message would outweigh a small batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pyarrow as pa

from datastreamx.errors import CrashError
from datastreamx.model.facts import Facts
from datastreamx.tables import FACT_TABLES, Table

HEADER_TABLE = "table"
HEADER_VERSION = "schema_version"
HEADER_GROUP = "key_group"

Headers = Sequence[tuple[str, bytes]]


class FactBatch(msgspec.Struct, frozen=True):
    """Rows of one table from one key group, sorted by (source_offset, ordinal)."""

    table: str
    partition: int
    group: int
    rows: pa.RecordBatch


def in_columns(pieces: Sequence[Facts]) -> FactBatch:
    """Rows of one or more pieces of the same table and key group, in order."""
    first, *later = pieces
    columns = first.rows.columns([piece.rows for piece in later])
    return FactBatch(first.table, first.partition, first.group, columns)


def encode_facts(facts: FactBatch) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Value and headers of a message."""
    table = FACT_TABLES[facts.table]
    headers = [
        (HEADER_TABLE, facts.table.encode()),
        (HEADER_VERSION, str(table.version).encode()),
        (HEADER_GROUP, str(facts.group).encode()),
    ]
    return facts.rows.serialize().to_pybytes(), headers


def decode_facts(value: bytes, headers: Headers, partition: int) -> FactBatch:
    """Invert `encode_facts`. The batch refers to `value`; nothing is copied.

    Columns that the writer's version did not have yet are null. So the warehouse flow is upgraded first and reads what
    the old ads flow still writes.

    Raises:
        CrashError: Unknown table, a schema version newer than this program, or bytes that are no record batch.
    """
    fields = dict(headers)
    try:
        table: Table = FACT_TABLES[fields[HEADER_TABLE].decode()]
        version = int(fields[HEADER_VERSION])
        group = int(fields[HEADER_GROUP])
    except (KeyError, ValueError) as error:
        raise CrashError(
            f"box-facts holds a message with headers {fields!r}: {error}; is another program writing?"
        ) from None
    if version > table.version:
        raise CrashError(
            f"box-facts holds {table.name} in schema version {version}, this program knows {table.version}: "
            "deploy the warehouse flow before the ads flow when columns are added"
        )
    try:
        schema = table.arrow_schema if version == table.version else table.arrow_schema_of(version)
        rows = pa.ipc.read_record_batch(pa.py_buffer(value), schema)
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        raise CrashError(f"box-facts holds a message of {len(value)} bytes that is no record batch: {error}") from None
    return FactBatch(table.name, partition, group, rows if version == table.version else _widen(rows, table))


def _widen(rows: pa.RecordBatch, table: Table) -> pa.RecordBatch:
    """Rows of an earlier version with the table's present columns."""
    present = set(rows.schema.names)
    columns = [
        rows.column(field.name) if field.name in present else pa.nulls(rows.num_rows, field.type)
        for field in table.arrow_schema
    ]
    return pa.record_batch(columns, schema=table.arrow_schema)
