"""Bytewax shell of the decision log's reader."""

from __future__ import annotations

from collections.abc import Iterable

import bytewax.operators as op
import msgspec
import pyarrow as pa
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from datastreamx import metrics
from datastreamx.errors import CrashError
from datastreamx.model.auction import Decision
from datastreamx.model.log import LogBatch
from datastreamx.tables import AD_DECISIONS, BIDS, LATE_BIDS, Row, record_batch
from datastreamx.wire.decisions import decode_decision
from operators.decisions.firsts import FirstWins
from operators.decisions.rows import bids_batch, decision_row, late_row


class DecisionBatch(msgspec.Struct, frozen=True):
    """First records of a stretch of the log.

    Attributes:
        rows: Record batch per table that has any.
    """

    decisions: list[Decision]
    rows: dict[str, pa.RecordBatch]


class DecisionsLogic(StatefulBatchLogic[LogBatch, DecisionBatch, bytes]):
    """Remembers the auctions of one partition."""

    def __init__(self, snapshot: bytes | None) -> None:
        self._firsts = FirstWins(snapshot)

    def on_batch(self, values: list[LogBatch]) -> tuple[Iterable[DecisionBatch], bool]:
        """Decode records in log order and keep the first of each auction."""
        decisions: list[Decision] = []
        ad_decisions: list[Row] = []
        offsets: list[int] = []
        late_bids: list[Row] = []
        for batch in values:
            for offset, value in zip(batch.offsets, batch.values, strict=True):
                try:
                    decision = decode_decision(value)
                except CrashError as error:
                    raise CrashError(f"{batch.topic}[{batch.partition}] at offset {offset}: {error}") from None
                if not self._firsts.is_first(decision.auction_id, decision.decided_ms):
                    metrics.WAREHOUSE_REPEATS_DROPPED.labels(AD_DECISIONS.name).inc()
                    continue
                decisions.append(decision)
                ad_decisions.append(decision_row(decision, offset))
                offsets.append(offset)
                late_bids += [
                    late_row(late, decision.partition, offset)
                    for late in decision.late
                    # An auction that is re-issued after a crash may be answered late twice.
                    if self._firsts.is_first(f"{late.auction_id}/{late.aggregator}", late.decided_ms)
                ]
        if not decisions:
            return [], StatefulBatchLogic.RETAIN
        rows = {
            table.name: record_batch(table, found)
            for table, found in ((AD_DECISIONS, ad_decisions), (LATE_BIDS, late_bids))
            if found
        }
        bids = bids_batch(decisions, offsets)
        if bids is not None:
            rows[BIDS.name] = bids
        return [DecisionBatch(decisions, rows)], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """Versioned bytes of the auctions remembered."""
        return self._firsts.snapshot()


@operator
def read_decisions(step_id: str, up: KeyedStream[LogBatch]) -> KeyedStream[DecisionBatch]:
    """Decode decisions, each auction once.

    Args:
        step_id: Unique id of the step; what was seen is stored under it.
        up: Records of ad-decisions, keyed by partition, in log order.

    Returns:
        Decisions and their rows.
    """
    return op.stateful_batch("firsts", up, DecisionsLogic)
