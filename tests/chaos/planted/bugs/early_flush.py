"""Rows become visible as soon as BigQuery has them, without a tick that proves the snapshot durable."""

from __future__ import annotations

from sinks.bigquery.ledger import FlushLedger
from sinks.bigquery.loader import TableLoader
from sinks.bigquery.transport import Reply
from tests.chaos.planted.patch import patch

PROMISE = "rows_duplicated"


def plant() -> None:
    """Take every acknowledgement for a proof."""

    def proven(ledger: FlushLedger, stream: str, end: int) -> None:
        acked(ledger, stream, end)
        marks = ledger._streams[stream]
        marks.snapshotted = marks.durable = end

    def flush_at_once(loader: TableLoader, reply: Reply) -> None:
        take(loader, reply)
        loader._start_flushes()

    acked = patch(FlushLedger, "acked", proven)
    take = patch(TableLoader, "_take_verdict", flush_at_once)
