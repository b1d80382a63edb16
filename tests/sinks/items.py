"""Items that sinks take, each told from the others by its number."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import pyarrow as pa

from datastreamx.model.auction import Decision
from datastreamx.model.chunk import DeadLetter
from datastreamx.model.facts import Facts
from datastreamx.tables import BOX_EVENTS, Kind
from tests.builders import T0

_VALUES: dict[Kind, object] = {
    Kind.INT64: 0,
    Kind.FLOAT64: 0.0,
    Kind.BOOL: False,
    Kind.STRING: "text",
    Kind.TIMESTAMP: dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
}


class Columns:
    """Rows that are columns already."""

    def __init__(self, rows: pa.RecordBatch) -> None:
        self._rows = rows

    @property
    def num_rows(self) -> int:
        return int(self._rows.num_rows)

    def columns(self, later: Sequence[Columns] = ()) -> pa.RecordBatch:
        return pa.concat_batches([self._rows, *(piece.columns() for piece in later)])


def decision(number: int, *, partition: int = 0) -> Decision:
    return Decision(
        auction_id=f"{number:032x}",
        box_id=f"stb-{number}",
        box_key=f"{number:032x}",
        partition=partition,
        group=0,
        offset=number,
        emitted_ms=T0,
        trigger="dwell",
        opportunity_ms=T0,
        deadline_ms=T0 + 2_000,
        decided_ms=T0 + 100,
        slot_ms=30_000,
        channel_id="ch1",
        last_channel_id=None,
        last_ad_id=None,
        break_id=None,
        status="no_bid",
    )


def facts(*, rows: int, first_offset: int, partition: int = 0, group: int = 0, padding: int = 0) -> Facts:
    """Rows of box_events, one per offset; `padding` adds bytes to each."""
    positions = {"source_partition": partition, "key_group": group, "ordinal": 0}
    columns = []
    for column in BOX_EVENTS.columns:
        if column.name == "source_offset":
            values: list[object] = [*range(first_offset, first_offset + rows)]
        elif column.name == "event_id":
            values = [f"event-{offset}" + "x" * padding for offset in range(first_offset, first_offset + rows)]
        else:
            values = [positions.get(column.name, _VALUES[column.kind])] * rows
        columns.append(pa.array(values, column.kind.arrow))
    return Facts(
        "box_events", partition, group, Columns(pa.RecordBatch.from_arrays(columns, schema=BOX_EVENTS.arrow_schema))
    )


def dead_letter(
    number: int,
    *,
    key: bytes | None = b"stb-1",
    value: bytes | None = b"{",
    reason: str = "malformed",
    detail: str = "because",
) -> DeadLetter:
    return DeadLetter(
        reason=reason,
        detail=detail,
        topic="box-events",
        partition=0,
        offset=number,
        timestamp_ms=T0,
        key=key,
        value=value,
    )
