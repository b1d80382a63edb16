"""Bytewax shell of the high-water marks."""

from __future__ import annotations

from collections.abc import Iterable

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from datastreamx import metrics
from datastreamx.model.log import LogBatch
from datastreamx.wire.facts import FactBatch, decode_facts
from operators.repeats.marks import HighWaterMarks


class RepeatsLogic(StatefulBatchLogic[LogBatch, FactBatch, bytes]):
    """Owns the marks of one source partition."""

    def __init__(self, snapshot: bytes | None) -> None:
        self._marks = HighWaterMarks(snapshot)

    def on_batch(self, values: list[LogBatch]) -> tuple[Iterable[FactBatch], bool]:
        """Decode messages in log order and pass on what is new."""
        return [fresh for batch in values for fresh in self._fresh(batch)], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """Versioned bytes of the marks."""
        return self._marks.snapshot()

    def _fresh(self, batch: LogBatch) -> Iterable[FactBatch]:
        for value, headers in zip(batch.values, batch.headers, strict=True):
            facts = decode_facts(value, headers, batch.partition)
            fresh = self._marks.fresh(facts)
            repeats = facts.rows.num_rows - (fresh.rows.num_rows if fresh else 0)
            if repeats:
                metrics.WAREHOUSE_REPEATS_DROPPED.labels(facts.table).inc(repeats)
            if fresh:
                yield fresh


@operator
def drop_repeats(step_id: str, up: KeyedStream[LogBatch]) -> KeyedStream[FactBatch]:
    """Decode fact messages and drop rows that were delivered before.

    Args:
        step_id: Unique id of the step; the marks are stored under it.
        up: Messages of box-facts, keyed by partition, in log order.

    Returns:
        Facts, each row once.
    """
    return op.stateful_batch("marks", up, RepeatsLogic)
