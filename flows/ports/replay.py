"""Ends of the replay flow: events and decisions as the log holds them, rows to another dataset."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
from bytewax.inputs import Source
from bytewax.outputs import DynamicSink, Sink, StatelessSinkPartition

from datastreamx import metrics
from datastreamx.config import BigQueryConfig
from datastreamx.model.chunk import DeadLetter
from datastreamx.model.log import Tick
from datastreamx.tables import TABLES
from flows.ports import Process
from flows.replaying.meter import Meter
from flows.replaying.span import Span, start_of
from operators.viewing.warm import warm_up
from sinks.bigquery.sink import BigQuerySink
from sources.kafka.replay import ReplayItem, ReplaySource

CHUNKS_PER_POLL = 4
"""Of `events.chunk_records`: the more records a chunk holds, the less its way through the flow costs each of them."""


@dataclass(frozen=True)
class RowsPorts:
    """Where events, decisions and ticks come from; where rows and dead letters go."""

    log: Source[ReplayItem]
    bigquery: Sink[tuple[str, pa.RecordBatch | Tick]]
    dead_letters: Sink[tuple[str, DeadLetter]]


def rows_ports(process: Process, span: Span, bigquery: BigQueryConfig, meter: Meter) -> RowsPorts:
    """Kafka and another dataset; dead letters are only counted."""
    config = process.config
    warm_up()
    return RowsPorts(
        log=ReplaySource(
            config,
            start=start_of(span),
            until_ms=span.until_ms,
            stop=process.stop,
            records_max=CHUNKS_PER_POLL * config.events.chunk_records,
            passed=meter.passed,
        ),
        bigquery=BigQuerySink(bigquery, tuple(TABLES.values()), CountingLetters, topics=config.topics),
        dead_letters=CountingSink(),
    )


class CountingSink(DynamicSink[tuple[str, DeadLetter]]):
    """Counts dead letters: the topic holds them already."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> CountingPartition:  # noqa: ARG002  nothing to tell apart
        """Begin to count."""
        return CountingPartition()


class CountingPartition(StatelessSinkPartition[tuple[str, DeadLetter]]):
    """Counts."""

    def write_batch(self, items: list[tuple[str, DeadLetter]]) -> None:
        """Count by reason."""
        for _, letter in items:
            metrics.DEAD_LETTERS.labels(letter.reason).inc()


class CountingLetters:
    """Counts rows that BigQuery refuses, as a writer of dead letters."""

    def write(self, letter: DeadLetter) -> None:
        """Count."""
        metrics.DEAD_LETTERS.labels(letter.reason).inc()

    def settle(self) -> None:
        """Nothing is under way."""

    def close(self) -> None:
        """Nothing is held."""
