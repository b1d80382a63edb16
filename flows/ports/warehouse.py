"""Ends of the warehouse flow."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pyarrow as pa
from bytewax.inputs import Source
from bytewax.outputs import Sink

from datastreamx.config import Config
from datastreamx.model.log import LogBatch, Tick
from datastreamx.tables import TABLES
from sinks.bigquery.sink import BigQuerySink
from sinks.dead_letter.writer import DeadLetterWriter
from sources.kafka.warehouse import WarehouseSource


@dataclass(frozen=True)
class WarehousePorts:
    """Where facts and decisions come from, and where rows go."""

    log: Source[LogBatch | Tick]
    bigquery: Sink[tuple[str, pa.RecordBatch | Tick]]


def live_warehouse_ports(config: Config, stop: threading.Event) -> WarehousePorts:
    """Kafka and BigQuery; `stop` ends the flow with a last snapshot."""

    def dead_letters() -> DeadLetterWriter:
        return DeadLetterWriter(config, "warehouse.dead_letters")

    tables = tuple(TABLES.values())
    return WarehousePorts(
        log=WarehouseSource(config, stop=stop),
        bigquery=BigQuerySink(config.bigquery, tables, dead_letters, topics=config.topics),
    )
