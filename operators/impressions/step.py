"""Bytewax shell of the impression join."""

from __future__ import annotations

from collections.abc import Iterable

import bytewax.operators as op
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from datastreamx.tables import BOX_EVENTS, IMPRESSIONS, record_batch
from datastreamx.wire.facts import FactBatch
from operators.decisions.step import DecisionBatch
from operators.impressions.join import Display, Impression, ImpressionJoin, Push, impression_row

_DISPLAY_COLUMNS = [
    "event_time",
    "box_key",
    "push_id",
    "ad_id",
    "shown_ms",
    "source_partition",
    "key_group",
    "source_offset",
    "ordinal",
]


class ImpressionBatch(msgspec.Struct, frozen=True):
    """Impressions and their record batch."""

    impressions: list[Impression]
    rows: pa.RecordBatch


class ImpressionsLogic(StatefulBatchLogic[FactBatch | DecisionBatch, ImpressionBatch, bytes]):
    """Owns the join of one partition."""

    def __init__(self, memory_ms: int, snapshot: bytes | None) -> None:
        self._join = ImpressionJoin(memory_ms, snapshot)

    def on_batch(self, values: list[FactBatch | DecisionBatch]) -> tuple[Iterable[ImpressionBatch], bool]:
        """Join what has come."""
        impressions: list[Impression] = []
        for value in values:
            if isinstance(value, DecisionBatch):
                impressions += self._on_decisions(value)
            else:
                for display in displays(value):
                    impressions += self._join.on_display(display)
        if not impressions:
            return [], StatefulBatchLogic.RETAIN
        rows = record_batch(IMPRESSIONS, [impression_row(impression) for impression in impressions])
        return [ImpressionBatch(impressions, rows)], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """Versioned bytes of everything that waits."""
        return self._join.snapshot()

    def _on_decisions(self, batch: DecisionBatch) -> list[Impression]:
        impressions: list[Impression] = []
        for decision in batch.decisions:
            winner = decision.winner
            if winner is not None and decision.push_id is not None:
                push = Push(
                    decision.auction_id,
                    winner.aggregator,
                    winner.price_micros,
                    winner.currency,
                    decision.channel_id,
                    decision.decided_ms,
                )
                impressions += self._join.on_push(decision.push_id, push)
        return impressions


def displays(facts: FactBatch) -> list[Display]:
    """Displayed ads among facts. Only these few rows ever become Python objects."""
    if facts.table != BOX_EVENTS.name:
        return []
    shown = facts.rows.filter(pc.equal(facts.rows.column("type"), "ad_shown"))
    if not shown.num_rows:
        return []
    columns = [shown.column(name) for name in _DISPLAY_COLUMNS]
    columns[0] = pc.divide(columns[0].cast(pa.int64()), 1000)
    return [Display(*values) for values in zip(*(column.to_pylist() for column in columns), strict=True)]


@operator
def join_impressions(
    step_id: str, facts: KeyedStream[FactBatch], decisions: KeyedStream[DecisionBatch], memory_ms: int
) -> KeyedStream[ImpressionBatch]:
    """Join displayed ads to decisions.

    Args:
        step_id: Unique id of the step; what waits is stored under it.
        facts: Facts, each row once, keyed by partition.
        decisions: Decisions, each auction once, keyed by the same partition.
        memory_ms: How long one side waits for the other.

    Returns:
        Impressions, keyed by partition.
    """
    both: KeyedStream[FactBatch | DecisionBatch] = op.merge("both", facts, decisions)
    return op.stateful_batch("join", both, lambda snapshot: ImpressionsLogic(memory_ms, snapshot))
