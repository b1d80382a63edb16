"""The Bytewax shell: one part per table, snapshots and ticks handed to the table's loader."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeAlias

import pyarrow as pa
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from datastreamx import metrics
from datastreamx.config.structs import BigQueryConfig, TopicsConfig
from datastreamx.model.log import Tick
from datastreamx.tables import Table
from sinks.bigquery.client import write_channel
from sinks.bigquery.grpc_transport import GrpcTransport
from sinks.bigquery.loader import DeadLetterWriter, Environment, LoaderSettings, TableLoader
from sinks.bigquery.transport import Transport

WarehouseItem: TypeAlias = "pa.RecordBatch | Tick"


class BigQuerySink(FixedPartitionedSink[WarehouseItem, bytes]):
    """Sink of `(table name, record batch | tick)`.

    Rows become visible exactly once, about one epoch after they were written. For that every table must receive a
    `Tick` after each snapshot, from a source and through stateless steps only (decision 0003).

    Args:
        tables: All tables that items may name.
        dead_letters: Makes the writer of a table for rows that BigQuery refuses; called when there is the first.
        connect: Called once per table and process; `None` means gRPC to where `config` says.
        on_wait: Called at least twice a second while the worker waits for BigQuery: beat the heart here. It may raise
            to stop waiting.
    """

    def __init__(  # noqa: PLR0913  composition root of the sink: every part is replaceable in tests
        self,
        config: BigQueryConfig,
        tables: Sequence[Table],
        dead_letters: Callable[[], DeadLetterWriter],
        *,
        topics: TopicsConfig | None = None,
        settings: LoaderSettings | None = None,
        connect: Callable[[], Transport] | None = None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._dataset = f"projects/{config.project}/datasets/{config.dataset}"
        self._tables = {table.name: table for table in tables}
        self._names = sorted(self._tables)
        self._dead_letters = dead_letters
        self._topics = topics or TopicsConfig()
        self._settings = settings or LoaderSettings(max_request_bytes=config.max_request_bytes)
        self._connect = connect or (lambda: GrpcTransport(write_channel(config), self._dataset))
        self._on_wait = on_wait
        # Parts of one worker snapshot one after the other; each worker is a thread.
        self._siblings = _Siblings()

    def list_parts(self) -> list[str]:
        """Names of the tables."""
        return self._names

    def part_fn(self, item_key: str) -> int:
        """Position of the table among all; Bytewax orders parts by name, too."""
        return self._names.index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> _TablePart:
        """Part of one table; it begins to flush what the resumed snapshot left unflushed."""
        env = Environment(
            transport=self._connect(),
            dead_letters=self._dead_letters,
            topics=self._topics,
            on_wait=self._on_wait,
        )
        parent = f"{self._dataset}/tables/{for_part}"
        loader = TableLoader(self._tables[for_part], parent, self._settings, env, resume_state)
        return _TablePart(step_id, loader, self._siblings.loaders, self._on_wait)


class _Siblings(threading.local):
    """Loaders of the parts of the worker that asks."""

    def __init__(self) -> None:
        self.loaders: list[TableLoader] = []


class _TablePart(StatefulSinkPartition[WarehouseItem, bytes]):
    """One table's loader as Bytewax calls it."""

    def __init__(
        self, step_id: str, loader: TableLoader, siblings: list[TableLoader], on_wait: Callable[[], None]
    ) -> None:
        self._loader = loader
        # A new write stream may take its whole time-out, and one table comes after the other.
        self._on_wait = on_wait
        self._siblings = siblings
        self._siblings.append(loader)
        self._snapshot_seconds = metrics.SNAPSHOT_SECONDS.labels(step_id)

    def write_batch(self, values: list[WarehouseItem]) -> None:
        """Hand rows over; a tick lets the last snapshot's rows become visible."""
        self._on_wait()
        for value in values:
            if isinstance(value, Tick):
                self._loader.tick()
            else:
                self._loader.write(value)

    def snapshot(self) -> bytes:
        """Wait until BigQuery holds every row of this part."""
        with self._snapshot_seconds.time():
            # All parts are about to be asked: the round trips of the tables then overlap instead of adding up.
            for sibling in self._siblings:
                self._on_wait()
                sibling.send()
            return self._loader.snapshot()

    def close(self) -> None:
        """Let go of the connection."""
        self._siblings.remove(self._loader)
        self._loader.close()
