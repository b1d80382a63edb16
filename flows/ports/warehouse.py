"""Ends of the warehouse flow."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
from bytewax.inputs import Source
from bytewax.outputs import Sink

from datastreamx.model.log import LogBatch, Tick
from datastreamx.tables import TABLES
from flows.ports import Process
from sinks.bigquery.sink import BigQuerySink
from sinks.dead_letter.writer import DeadLetterWriter
from sinks.kafka.outside import Outside
from sources.kafka.warehouse import WarehouseSource


@dataclass(frozen=True)
class WarehousePorts:
    """Where facts and decisions come from, and where rows go."""

    log: Source[LogBatch | Tick]
    bigquery: Sink[tuple[str, pa.RecordBatch | Tick]]


def live_warehouse_ports(process: Process) -> WarehousePorts:
    """Kafka and BigQuery."""
    config, pulse = process.config, process.pulse

    def dead_letters() -> DeadLetterWriter:
        return DeadLetterWriter(config, "warehouse.dead_letters", Outside(on_wait=pulse.beat))

    source = WarehouseSource(
        config, place=process.place, pulse=pulse, stop=process.stop, accept_store=process.accept_store
    )

    def waits() -> None:
        pulse.beat()
        # The source is not asked while the sink waits. Without this the flow would seem to be ready during an outage.
        source.tell_lag()

    tables = tuple(TABLES.values())
    return WarehousePorts(
        log=source,
        bigquery=BigQuerySink(config.bigquery, tables, dead_letters, topics=config.topics, on_wait=waits),
    )
