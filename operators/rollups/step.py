"""Bytewax shell of the rollups."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import bytewax.operators as op
import pyarrow as pa
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from datastreamx.tables import MINUTE_ROLLUPS, record_batch
from datastreamx.wire.facts import FactBatch
from operators.decisions.step import DecisionBatch
from operators.impressions.step import ImpressionBatch
from operators.rollups.counts import Rollup

Countable = FactBatch | DecisionBatch | ImpressionBatch


class RollupsLogic(StatefulBatchLogic[Countable, pa.RecordBatch, bytes]):
    """Owns the counts of one partition and emits them at intervals of wall time.

    Which rows a minute is cut into depends on the clock; their sum does not, and exactly-once delivery does the rest.
    """

    def __init__(self, interval: timedelta, snapshot: bytes | None) -> None:
        self._interval = interval
        self._rollup = Rollup(snapshot)
        self._due: datetime | None = None if self._rollup.is_empty else datetime.now(UTC) + interval

    def on_batch(self, values: list[Countable]) -> tuple[Iterable[pa.RecordBatch], bool]:
        """Count."""
        for value in values:
            if isinstance(value, FactBatch):
                self._rollup.add_facts(value)
            elif isinstance(value, DecisionBatch):
                for decision in value.decisions:
                    self._rollup.add_decision(decision)
            else:
                for impression in value.impressions:
                    self._rollup.add_impression(impression)
        if self._due is None and not self._rollup.is_empty:
            self._due = datetime.now(UTC) + self._interval
        return [], StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[Iterable[pa.RecordBatch], bool]:
        """Emit what was counted in the interval."""
        return self._emit(), StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[pa.RecordBatch], bool]:
        """Emit the rest."""
        return self._emit(), StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        """When the interval ends, if anything was counted in it."""
        return self._due

    def snapshot(self) -> bytes:
        """Versioned bytes of the counts."""
        return self._rollup.snapshot()

    def _emit(self) -> list[pa.RecordBatch]:
        self._due = None
        rows = self._rollup.take()
        return [record_batch(MINUTE_ROLLUPS, rows)] if rows else []


@operator
def roll_up(step_id: str, up: KeyedStream[Countable], interval_ms: int) -> KeyedStream[pa.RecordBatch]:
    """Count events, auctions and impressions by minute.

    Args:
        step_id: Unique id of the step; counts are stored under it.
        up: What is to be counted, keyed by partition, each thing once.
        interval_ms: How often increments are emitted.

    Returns:
        Record batches of minute_rollups, keyed by partition.
    """
    interval = timedelta(milliseconds=interval_ms)
    return op.stateful_batch("counts", up, lambda snapshot: RollupsLogic(interval, snapshot))
