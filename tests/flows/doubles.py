"""Ends of the flows for tests: what Kafka, BigQuery and the aggregators would be."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
from bytewax.dataflow import Dataflow
from bytewax.inputs import AbortExecution, FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, FixedPartitionedSink, StatefulSinkPartition, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig
from bytewax.testing import run_main

from datastreamx.acks import AckedOffsets
from datastreamx.model.auction import DecidedAuction, Decision
from datastreamx.model.log import Tick
from datastreamx.tables import TABLES
from datastreamx.wire.decisions import decode_decided, encode_decision


class Script:
    """Items for a flow and the places before which it crashes, once each; outlives the crashes.

    Bytewax's own `TestingSource.ABORT` counts itself on resume but not in its snapshots, so that after the first crash
    every resume begins an item too early: state would be newer than the source's place, which no real source does.
    """

    def __init__(self, items: Iterable[Any], *crashes: int) -> None:
        self.items = list(items)
        self.crashes = sorted(crashes)


class ScriptedSource(FixedPartitionedSource[Any, int]):
    """Source of a script's items; one that `ticks` emits a `Tick` first after each of its snapshots."""

    def __init__(self, script: Script, *, ticks: bool = False) -> None:
        self._script, self._ticks = script, ticks

    def list_parts(self) -> list[str]:
        return ["script"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _ScriptedPart:
        del step_id, for_part
        return _ScriptedPart(self._script, resume_state or 0, ticks=self._ticks)


class _ScriptedPart(StatefulSourcePartition[Any, int]):
    def __init__(self, script: Script, place: int, *, ticks: bool) -> None:
        self._script, self._place, self._ticks = script, place, ticks
        self._owes_tick = False

    def next_batch(self) -> list[Any]:
        owed = [Tick()] if self._owes_tick and self._ticks else []
        self._owes_tick = False
        if self._script.crashes and self._place >= self._script.crashes[0]:
            self._script.crashes.pop(0)
            raise AbortExecution
        if self._place == len(self._script.items):
            # Like a source that is told to stop: what its last tick would prove, the next start proves.
            raise StopIteration
        item = self._script.items[self._place : self._place + 1]
        self._place += len(item)
        return owed + item

    def snapshot(self) -> int:
        self._owes_tick = True
        return self._place


def run_epochs(flow: Dataflow, epoch: timedelta, store: Path) -> None:
    """One execution, until the end or the next abort."""
    run_main(flow, epoch_interval=epoch, recovery_config=RecoveryConfig(str(store)))


class SnapshotCrashError(Exception):
    """The process died while it took a snapshot."""


class SettledTables:
    """What BigQuery's buffered write streams are: rows are held, and visible only once they are flushed.

    Args:
        crashes: Numbers of the snapshots in which the process dies; a snapshot of the flow takes one per table.

    Attributes:
        appended: Rows that were ever appended, of runs that crashed, too.
    """

    def __init__(self, *crashes: int) -> None:
        self._crashes = set(crashes)
        self._snapshots = itertools.count()
        self._streams: dict[int, list[dict[str, Any]]] = {}
        self._flushed: defaultdict[int, int] = defaultdict(int)
        self._tables: dict[int, str] = {}
        self._numbers = itertools.count()
        self.appended = 0

    def open(self, table: str) -> int:
        """New stream of a table."""
        stream = next(self._numbers)
        self._streams[stream], self._tables[stream] = [], table
        return stream

    def append(self, stream: int, rows: list[dict[str, Any]]) -> int:
        """Hold rows; returns the end of the stream."""
        self._streams[stream] += rows
        self.appended += len(rows)
        return len(self._streams[stream])

    def flush(self, stream: int, end: int) -> None:
        """Make rows below `end` visible, for ever."""
        self._flushed[stream] = max(self._flushed[stream], end)

    def begin_snapshot(self) -> None:
        """Die, if this is one of the snapshots in which that happens."""
        if next(self._snapshots) in self._crashes:
            raise SnapshotCrashError

    def visible(self, table: str) -> list[dict[str, Any]]:
        """What a query sees."""
        return [
            row
            for stream, rows in self._streams.items()
            if self._tables[stream] == table
            for row in rows[: self._flushed[stream]]
        ]


class SettledSink(FixedPartitionedSink[pa.RecordBatch | Tick, tuple[int, int]]):
    """Appends at once and flushes only what a snapshot holds that a tick, or the resume itself, proves durable."""

    def __init__(self, tables: SettledTables) -> None:
        self._settled = tables

    def list_parts(self) -> list[str]:
        return sorted(TABLES)

    def part_fn(self, item_key: str) -> int:
        return self.list_parts().index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: tuple[int, int] | None) -> _SettledPart:
        del step_id
        if resume_state is not None:
            self._settled.flush(*resume_state)
        return _SettledPart(self._settled, for_part)


class _SettledPart(StatefulSinkPartition[pa.RecordBatch | Tick, tuple[int, int]]):
    def __init__(self, settled: SettledTables, table: str) -> None:
        self._settled = settled
        self._stream = settled.open(table)
        self._schema = TABLES[table].arrow_schema
        self._appended = self._snapshotted = 0

    def write_batch(self, values: list[pa.RecordBatch | Tick]) -> None:
        for value in values:
            if isinstance(value, Tick):
                self._settled.flush(self._stream, self._snapshotted)
            else:
                assert value.schema == self._schema
                self._appended = self._settled.append(self._stream, value.to_pylist())

    def snapshot(self) -> tuple[int, int]:
        self._settled.begin_snapshot()
        self._snapshotted = self._appended
        return self._stream, self._snapshotted


class DecisionTopic:
    """Topic ad-decisions: every record is acknowledged at once and survives every crash."""

    def __init__(self) -> None:
        self.records: list[Decision] = []

    def read_back(self, partition: int, from_offset: int | None) -> list[DecidedAuction]:
        first = 0 if from_offset is None else from_offset + 1
        return [
            decode_decided(encode_decision(decision))
            for decision in self.records[first:]
            if decision.partition == partition
        ]

    def sink(self, acked: AckedOffsets) -> _DecisionSink:
        """Producer of a process whose acknowledgements are `acked`."""
        return _DecisionSink(self, acked)


class _DecisionSink(DynamicSink[tuple[str, Decision]]):
    def __init__(self, topic: DecisionTopic, acked: AckedOffsets) -> None:
        self._topic, self._acked = topic, acked

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _DecisionSinkPartition:
        del step_id, worker_index, worker_count
        return _DecisionSinkPartition(self._topic, self._acked)


class _DecisionSinkPartition(StatelessSinkPartition[tuple[str, Decision]]):
    def __init__(self, topic: DecisionTopic, acked: AckedOffsets) -> None:
        self._topic, self._acked = topic, acked

    def write_batch(self, items: list[tuple[str, Decision]]) -> None:
        for _, decision in items:
            # One list for all partitions: offsets have gaps within a partition, as those of compacted topics do.
            self._topic.records.append(decision)
            self._acked.record(decision.partition, len(self._topic.records) - 1)


class _Bidder(BaseHTTPRequestHandler):
    """An aggregator in the `simple` dialect that always bids."""

    protocol_version = "HTTP/1.1"
    body = b'{"ad": "ad-7", "price": 2.5, "currency": "USD"}'

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@contextmanager
def bidder() -> Iterator[str]:
    """URL of an aggregator in this process."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Bidder) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/bid"
        finally:
            http.shutdown()
            thread.join()
