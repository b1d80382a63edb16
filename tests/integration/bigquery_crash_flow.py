"""A flow into two tables that kills itself at a seeded moment; run as a process of its own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import bytewax.operators as op
import msgspec
import pyarrow as pa
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.recovery import RecoveryConfig
from bytewax.testing import cluster_main

from datastreamx.config.structs import BigQueryConfig
from datastreamx.model.log import Tick
from datastreamx.tables import Column, Kind, Table
from sinks.bigquery.breaker import Backoff
from sinks.bigquery.client import write_channel
from sinks.bigquery.grpc_transport import GrpcCall, GrpcConnection, GrpcTransport
from sinks.bigquery.loader import DeadLetterWriter, LoaderSettings
from sinks.bigquery.sink import BigQuerySink
from sinks.bigquery.transport import AppendRequest, Reply

COLUMNS = (
    Column("id", Kind.INT64, "Identity", required=True),
    Column("event_time", Kind.TIMESTAMP, "Partition", required=True),
    Column("note", Kind.STRING, "Anything"),
)
TABLES = tuple(
    Table(name, 1, "Rows of a test.", COLUMNS, partition_by="event_time", cluster_by=("id",), key=("id",))
    for name in ("even_rows", "odd_rows")
)
SOURCE_PARTITIONS = 2
ROWS_PER_BATCH = 20
EPOCH = timedelta(milliseconds=60)

Item: TypeAlias = "tuple[int, int] | Tick"


class Run(msgspec.Struct, frozen=True):
    """One run of the flow.

    Attributes:
        rows_per_partition: How much the source holds.
        seed: Chooses the moment of the kill; `None` runs to the end.
        workers: Threads of the process; each holds some of the tables.
    """

    config: BigQueryConfig
    recovery_dir: str
    rows_per_partition: int
    seed: int | None
    workers: int


def rows_of(start: int, end: int) -> list[tuple[str, pa.RecordBatch]]:
    """Rows with the ids of a range, even ones and odd ones to tables of their own."""
    now = datetime.now(UTC)
    batches = []
    for table, remainder in zip(TABLES, (0, 1), strict=True):
        ids = [i for i in range(start, end) if i % 2 == remainder]
        columns = {"id": ids, "event_time": [now] * len(ids), "note": [None] * len(ids)}
        batches.append((table.name, pa.RecordBatch.from_pydict(columns, schema=table.arrow_schema)))
    return batches


class CountingSource(FixedPartitionedSource[Item, int]):
    """Ranges of ids; after each snapshot a tick, as the sources of the warehouse flow do."""

    def __init__(self, rows_per_partition: int, pace: timedelta) -> None:
        self._rows = rows_per_partition
        self._pace = pace

    def list_parts(self) -> list[str]:
        return [str(index) for index in range(SOURCE_PARTITIONS)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _CountingPart:  # noqa: ARG002  Bytewax's
        return _CountingPart(int(for_part) * self._rows, self._rows, resume_state or 0, self._pace)


class _CountingPart(StatefulSourcePartition[Item, int]):
    def __init__(self, base: int, rows: int, position: int, pace: timedelta) -> None:
        self._base = base
        self._rows = rows
        self._position = position
        self._pace = pace
        self._owes_tick = False
        self._next_awake: datetime | None = None

    def next_batch(self) -> Iterable[Item]:
        if self._owes_tick:
            self._owes_tick = False
            return [Tick()]
        if self._position == self._rows:
            raise StopIteration
        start, self._position = self._position, min(self._position + ROWS_PER_BATCH, self._rows)
        self._next_awake = datetime.now(UTC) + self._pace
        return [(self._base + start, self._base + self._position)]

    def next_awake(self) -> datetime | None:
        return self._next_awake

    def snapshot(self) -> int:
        self._owes_tick = True
        return self._position


class _Grenade:
    """Ends the process without any farewell at the n-th protocol event."""

    def __init__(self, event: int) -> None:
        self._event = event

    def hit(self) -> bool:
        self._event -= 1
        return self._event == 0

    @staticmethod
    def explode() -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class _KillingTransport(GrpcTransport):
    """Dies before or after a call: right after a flush took effect, between two sends, before an ack is seen."""

    def __init__(self, config: BigQueryConfig, grenade: _Grenade) -> None:
        super().__init__(write_channel(config), f"projects/{config.project}/datasets/{config.dataset}")
        self._grenade = grenade

    def connect(self, stream: str, schema: pa.Schema) -> GrpcConnection:
        connection = super().connect(stream, schema)
        send, receive, grenade = connection.send, connection.receive, self._grenade

        def killing_send(request: AppendRequest) -> None:
            if grenade.hit():
                grenade.explode()
            send(request)

        def killing_receive(timeout_s: float) -> Reply | None:
            reply = receive(timeout_s)
            if reply is not None and grenade.hit():
                grenade.explode()
            return reply

        connection.send, connection.receive = killing_send, killing_receive  # type: ignore[method-assign]
        return connection

    def flush(self, stream: str, offset: int) -> GrpcCall:
        call = super().flush(stream, offset)
        if self._grenade.hit():
            while call.poll() is None:
                pass
            self._grenade.explode()
        return call


def _no_letters() -> DeadLetterWriter:
    raise AssertionError("no row of this test is bad")


def run(settings: Run) -> None:
    """Run the flow to its end or to its death."""
    grenade = _Grenade(0)
    pace = timedelta(0)
    if settings.seed is not None:
        random = Random(settings.seed)
        # Slow enough that the source outlasts all runs that die.
        pace = timedelta(milliseconds=3)
        if random.random() < 0.75:
            grenade = _Grenade(random.randint(1, 60))
        else:
            timer = threading.Timer(random.uniform(0.0, 0.6), _Grenade.explode)
            timer.daemon = True
            timer.start()

    def routed(item: Any) -> list[tuple[str, Any]]:
        return [(table.name, item) for table in TABLES] if isinstance(item, Tick) else list(rows_of(*item))

    flow = Dataflow("crash")
    items = op.input("source", flow, CountingSource(settings.rows_per_partition, pace))
    sink = BigQuerySink(
        settings.config,
        TABLES,
        _no_letters,
        settings=LoaderSettings(linger_s=0.02, backoff=Backoff(0.005, 0.1)),
        connect=lambda: _KillingTransport(settings.config, grenade),
    )
    op.output("warehouse", op.flat_map("route", items, routed), sink)
    cluster_main(
        flow,
        [],
        0,
        epoch_interval=EPOCH,
        recovery_config=RecoveryConfig(Path(settings.recovery_dir)),
        worker_count_per_proc=settings.workers,
    )
