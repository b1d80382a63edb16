"""The contestants of `benchmarks.warehouse`, each a process of its own.

python -m benchmarks.warehouse_rig CONTESTANT MESSAGES PASSES ROWS
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

import grpc
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from google.cloud.bigquery_storage_v1 import types
from prometheus_client import REGISTRY

from benchmarks.contest import tell
from benchmarks.null_bigquery import move, running
from datastreamx.config import Config
from datastreamx.interpreter import spare_garbage_collection
from datastreamx.model.log import LogBatch, Tick
from datastreamx.tables import BOX_EVENTS, TABLES
from datastreamx.wire.facts import decode_facts
from flows.bench.effort import Effort, Stopwatch
from flows.bench.machine import resident_mib
from flows.bench.state import unconnected
from flows.ports.warehouse import WarehousePorts
from flows.recovery.opening import open_store
from flows.run import execute
from flows.warehouse import build
from simulator.bigquery import LocalBigQuery
from sinks.bigquery.client import rest_client
from sinks.bigquery.loader import DeadLetterWriter, LoaderSettings
from sinks.bigquery.schema import apply_tables
from sinks.bigquery.sink import BigQuerySink

OTHER_CORE = 1
PARTITIONS, GROUPS = 64, 4
EPOCH_S = 1.0
LIVE_ROWS_PER_S = 100_000
LIVE_AGE_S = 0.2
"""The ads flow sends what it has gathered after this time, of all key groups at once."""
LIVE_ROWS: Final = int(LIVE_ROWS_PER_S * LIVE_AGE_S / (PARTITIONS * GROUPS))
WARM_UP_SHARE = 0.1
FULL, LIVE, DECISIONS = "full", "live", "decisions"
BARE, LOADER, FLOW = "bare append", "loader, null endpoint", "warehouse flow, null endpoint"
LOCAL, ZSTD, SNAPPY = "loader, local BigQuery", "Parquet, zstd", "Parquet, snappy"
MEMORY = "memory"
SAMPLES = 120


def config_for(grpc_target: str, rest_url: str = "http://127.0.0.1:9") -> Config:
    """A configuration that reaches nothing but this BigQuery."""
    return unconnected(f'rest_endpoint = "{rest_url}"\ngrpc_endpoint = "{grpc_target}"\n')


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message of the topic of facts or, without headers, of that of decisions.

    Attributes:
        rows: How many it becomes, by table.
    """

    partition: int
    rows: dict[str, int]
    value: bytes
    headers: list[tuple[str, bytes]]


Poll = list[list[Message]]
"""What one poll of the source returns: messages by partition."""

Rows = list[list[pa.RecordBatch]]
"""The same as the sink of one table sees it."""


class Measured:
    """Measures what comes after the warm-up."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """The warm-up is over."""
        self._watch, self._before = Stopwatch(), _cpu_of_threads()

    def effort(self, units: int) -> Effort:
        """Since then; the busiest thread is the one that runs our code, all others are gRPC's."""
        effort = self._watch.effort(units)
        took = [taken - self._before.get(thread, 0.0) for thread, taken in _cpu_of_threads().items()]
        busiest = max(took, default=0.0) / units * 1e6
        return _with(effort, {"busiest thread, µs": busiest, "other threads, µs": max(0.0, effort.cpu_us - busiest)})


def _cpu_of_threads() -> dict[str, float]:
    """Seconds of every thread of this process; nothing where the system does not tell."""
    return {
        path.parent.name: int(path.read_text(encoding="ascii").split()[0]) / 1e9
        for path in Path("/proc/self/task").glob("*/schedstat")
    }


def _with(effort: Effort, more: dict[str, float]) -> Effort:
    return msgspec.structs.replace(effort, more={**effort.more, **more})


def _count(polls: Rows) -> int:
    return sum(rows.num_rows for poll in polls for rows in poll)


def _warm(polls: Sequence[object]) -> int:
    return max(1, int(len(polls) * WARM_UP_SHARE))


def _require(what: str, expected: int, found: float) -> None:
    if found != expected:
        raise SystemExit(f"{found:,.0f} of {expected:,} rows are {what}")


# The loader ------------------------------------------------------------------------------------------------------


def _sink(config: Config) -> BigQuerySink:
    def no_letters() -> DeadLetterWriter:
        raise AssertionError("none of the rows is to be refused")

    return BigQuerySink(config.bigquery, tuple(TABLES.values()), no_letters, topics=config.topics)


class Loading:
    """Our sink's part of one table, given what Bytewax gives it: rows, a snapshot each epoch, and then a tick."""

    def __init__(self, config: Config) -> None:
        self._part = _sink(config).build_part("bigquery", BOX_EVENTS.name, None)
        self._due_s = time.monotonic() + EPOCH_S

    def write(self, rows: Sequence[pa.RecordBatch]) -> None:
        """One poll's worth."""
        self._part.write_batch([*rows])
        if time.monotonic() >= self._due_s:
            self.settle()

    def settle(self) -> None:
        """All is acknowledged, and about to become visible."""
        self._part.snapshot()
        self._part.write_batch([Tick()])
        self._due_s = time.monotonic() + EPOCH_S

    def close(self) -> None:
        """All is visible."""
        self._part.close()


def _load(config: Config, polls: Rows, passes: int) -> tuple[Effort, int]:
    """Effort of all but the warm-up, and number of all rows."""
    loading = Loading(config)
    warm = polls[: _warm(polls)]
    for rows in warm:
        loading.write(rows)
    loading.settle()
    measured = Measured()
    units = passes * _count(polls)
    for _ in range(passes):
        for rows in polls:
            loading.write(rows)
    loading.settle()
    effort = measured.effort(units)
    loading.close()
    return effort, units + _count(warm)


def run_loader(polls: Rows, passes: int) -> Effort:
    """Our sink before an endpoint that stores nothing."""
    with running(OTHER_CORE) as endpoint:
        effort, rows = _load(config_for(endpoint.target), polls, passes)
    seen = endpoint.seen
    if seen is None:
        raise AssertionError("it has ended")
    _require("visible", rows, seen.visible[BOX_EVENTS.name])
    return _with(effort, {"bytes": seen.append_bytes / rows})


def run_local(polls: Rows, directory: Path) -> Effort:
    """Our sink before a BigQuery that stores the rows."""
    bigquery = LocalBigQuery(directory)
    bigquery.start()
    try:
        move(bigquery.pid or 0, OTHER_CORE)
        config = config_for(bigquery.grpc_target, bigquery.rest_url)
        client = rest_client(config.bigquery)
        apply_tables(client, config.bigquery)
        effort, rows = _load(config, polls, 1)
        table = f"{config.bigquery.dataset}.{BOX_EVENTS.name}"
        query = f"SELECT COUNT(*) FROM `{table}` WHERE event_time > '2000-01-01'"  # noqa: S608  names of ours
        _require("visible", rows, next(iter(client.query_and_wait(query)))[0])
    finally:
        bigquery.stop()
    return effort


def run_memory(polls: Rows, count: int) -> Effort:
    """Many rows through the loader, with its memory looked at now and then."""
    with running(OTHER_CORE) as endpoint:
        loading = Loading(config_for(endpoint.target))
        measured = Measured()
        samples: list[float] = []
        done = 0
        while done < count:
            for rows in polls:
                loading.write(rows)
                done += sum(one.num_rows for one in rows)
                if done >= len(samples) * count / SAMPLES:
                    samples.append(resident_mib())
        loading.settle()
        effort = measured.effort(done)
        loading.close()
    third = len(samples) // 3
    middle, last = statistics.median(samples[third : 2 * third]), statistics.median(samples[-third:])
    return msgspec.structs.replace(effort, more={"resident, MiB": last, "growth": last / middle})


# The flow --------------------------------------------------------------------------------------------------------


class _Feed(StatefulSourcePartition[LogBatch | Tick, bytes]):
    """Polls from memory, and ticks as `WarehousePartition` emits them."""

    def __init__(self, polls: list[list[LogBatch]], warm: int, measured: Measured) -> None:
        self._polls, self._warm, self._measured = polls, warm, measured
        self._next = 0
        self._has_snapshot = False

    def next_batch(self) -> Iterable[LogBatch | Tick]:
        ticks = [Tick()] if self._has_snapshot else []
        self._has_snapshot = False
        if self._next == len(self._polls):
            raise StopIteration
        if self._next == self._warm:
            self._measured.start()
        self._next += 1
        return [*ticks, *self._polls[self._next - 1]]

    def snapshot(self) -> bytes:
        self._has_snapshot = True
        return b""


class _Source(FixedPartitionedSource[LogBatch | Tick, bytes]):
    def __init__(self, polls: list[list[LogBatch]], warm: int, measured: Measured) -> None:
        self._given = (polls, warm, measured)

    def list_parts(self) -> list[str]:
        return ["all"]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> _Feed:  # noqa: ARG002  Bytewax's own
        return _Feed(*self._given)


def run_flow(polls: list[Poll], directory: Path) -> Effort:
    """The whole flow. The rows of the last epoch are acknowledged and not visible, as after every clean stop."""
    warm = _warm(polls)
    expected: Counter[str] = Counter()
    measured_rows = 0
    for number, poll in enumerate(polls):
        for message in (message for messages in poll for message in messages):
            expected.update(message.rows)
            measured_rows += sum(message.rows.values()) if number >= warm else 0
    with running(OTHER_CORE) as endpoint:
        config = config_for(endpoint.target)
        logs = [[_log_batch(config, messages) for messages in poll] for poll in polls]
        polls.clear()
        measured = Measured()
        flow = build(config, WarehousePorts(log=_Source(logs, warm, measured), bigquery=_sink(config)))
        gc.freeze()
        execute(flow, open_store(directory / "store"), int(EPOCH_S * 1000))
        effort = measured.effort(measured_rows)
    for table, rows in expected.items():
        acknowledged = REGISTRY.get_sample_value("datastreamx_warehouse_rows_total", {"table": table})
        _require(f"acknowledged in {table}", rows, acknowledged or 0.0)
    return effort


def _log_batch(config: Config, messages: list[Message]) -> LogBatch:
    return LogBatch(
        topic=config.topics.facts if messages[0].headers else config.topics.decisions,
        partition=messages[0].partition,
        offsets=[*range(len(messages))],
        timestamps_ms=[0] * len(messages),
        values=[message.value for message in messages],
        headers=[message.headers for message in messages],
    )


# Yardsticks ------------------------------------------------------------------------------------------------------


def run_bare(polls: Rows, passes: int) -> Effort:
    """Serialise and send, and wait only when as many requests are under way as the loader allows."""
    settings = LoaderSettings()
    every = [rows for poll in polls for rows in poll]
    whole = pa.Table.from_batches(every).combine_chunks().to_batches()[0]
    per_request = int(settings.max_request_bytes * 0.95 / (whole.nbytes / whole.num_rows))
    requests = [whole.slice(at, per_request) for at in range(0, whole.num_rows, per_request)]
    raw_append, raw_reply = types.AppendRowsRequest.pb(), types.AppendRowsResponse.pb()
    room = threading.Semaphore(settings.max_unacked_requests)

    def messages(sent: Iterable[pa.RecordBatch]) -> Iterator[object]:
        for number, rows in enumerate(sent):
            room.acquire()
            message = raw_append()
            message.offset.value = number
            message.arrow_rows.rows.serialized_record_batch = rows.serialize().to_pybytes()
            if not number:
                message.write_stream = f"projects/none/datasets/none/tables/{BOX_EVENTS.name}/streams/_default"
                message.arrow_rows.writer_schema.serialized_schema = rows.schema.serialize().to_pybytes()
            yield message

    with running(OTHER_CORE) as endpoint, grpc.insecure_channel(endpoint.target) as channel:
        append = channel.stream_stream(
            "/google.cloud.bigquery.storage.v1.BigQueryWrite/AppendRows",
            request_serializer=raw_append.SerializeToString,
            response_deserializer=raw_reply.FromString,
        )

        def exchange(sent: list[pa.RecordBatch]) -> None:
            for _ in append(messages(sent)):
                room.release()

        exchange(requests[: _warm(requests)])
        watch = Stopwatch()
        exchange(requests * passes)
        return watch.effort(passes * whole.num_rows)


def run_parquet(polls: Rows, codec: str) -> Effort:
    """One file in memory."""
    table = pa.Table.from_batches([rows for poll in polls for rows in poll])
    pq.write_table(table.slice(0, int(table.num_rows * WARM_UP_SHARE)), BytesIO(), compression=codec)
    watch = Stopwatch()
    file = BytesIO()
    pq.write_table(table, file, compression=codec)
    return watch.effort(table.num_rows, {"bytes": file.tell() / table.num_rows})


def _play(name: str, path: Path, passes: int, rows: int) -> Effort:
    """Be one contestant."""
    polls = msgspec.msgpack.decode(path.read_bytes(), type=list[Poll])
    with tempfile.TemporaryDirectory(prefix="datastreamx-bench-") as folder:
        if name == FLOW:
            spare_garbage_collection()
            return run_flow(polls, Path(folder))
        batches = [[_rows(message) for messages in poll for message in messages] for poll in polls]
        polls.clear()
        spare_garbage_collection()
        return {
            BARE: lambda: run_bare(batches, passes),
            LOADER: lambda: run_loader(batches, passes),
            LOCAL: lambda: run_local(batches, Path(folder)),
            ZSTD: lambda: run_parquet(batches, "zstd"),
            SNAPPY: lambda: run_parquet(batches, "snappy"),
            MEMORY: lambda: run_memory(batches, rows),
        }[name]()


def _rows(message: Message) -> pa.RecordBatch:
    return decode_facts(message.value, message.headers, message.partition).rows


if __name__ == "__main__":
    tell(_play(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
