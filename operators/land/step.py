"""Bytewax shell of the gathering; stateless, so that a tick passes through unharmed (see `Tick`)."""

from __future__ import annotations

import bytewax.operators as op
import pyarrow as pa
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream

from datastreamx.model.log import Tick
from datastreamx.tables import IMPRESSIONS, MINUTE_ROLLUPS, TABLES
from datastreamx.wire.facts import FactBatch
from operators.decisions.step import DecisionBatch
from operators.impressions.step import ImpressionBatch


@operator
def land(  # noqa: PLR0913, PLR0917 - one stream per kind of row
    step_id: str,
    facts: KeyedStream[FactBatch],
    decisions: KeyedStream[DecisionBatch],
    impressions: KeyedStream[ImpressionBatch],
    rollups: KeyedStream[pa.RecordBatch],
    ticks: Stream[Tick],
) -> KeyedStream[pa.RecordBatch | Tick]:
    """Key every record batch by the table that it belongs to.

    Args:
        step_id: Unique id of the step.
        facts: Rows of box_events and viewing_sessions.
        decisions: Rows of ad_decisions, bids and late_bids.
        impressions: Rows of impressions.
        rollups: Rows of minute_rollups.
        ticks: One tick becomes one per table, because each table's sink waits for its own.

    Returns:
        Record batches and ticks, keyed by table.
    """
    merged: KeyedStream[pa.RecordBatch | Tick] = op.merge(
        "tables",
        op.map("facts", facts, lambda item: (item[1].table, item[1].rows)),
        op.flat_map("decisions", decisions, lambda item: item[1].rows.items()),
        op.map("impressions", impressions, lambda item: (IMPRESSIONS.name, item[1].rows)),
        op.map("rollups", rollups, lambda item: (MINUTE_ROLLUPS.name, item[1])),
        op.flat_map("ticks", ticks, lambda tick: [(table, tick) for table in TABLES]),
    )
    return merged
