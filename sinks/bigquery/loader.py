"""Loads one table: buffers rows, appends them, waits out outages, flushes what a tick has proven durable.

Called by one thread. It never gives up on an outage: `snapshot` returns only when everything is acknowledged, so no
epoch closes, the source stalls, and Kafka keeps what is to come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import pyarrow as pa

from datastreamx import metrics
from datastreamx.clock import Clock, SystemClock
from datastreamx.config.structs import TopicsConfig
from datastreamx.errors import CrashError
from datastreamx.log import get_logger
from datastreamx.model.chunk import DeadLetter
from datastreamx.tables import Table
from sinks.bigquery.breaker import Backoff, Breaker
from sinks.bigquery.ledger import FlushLedger, FlushTarget
from sinks.bigquery.rows import REQUEST_OVERHEAD_BYTES, Block, RefusedRow, dead_letter, pack
from sinks.bigquery.stream import AppendStream
from sinks.bigquery.transport import Connection, PendingCall, Reply, ReplyKind, Transport

# Longest wait between two calls of `on_wait`.
POLL_S = 0.5


class DeadLetterWriter(Protocol):
    """Where refused rows go."""

    def write(self, letter: DeadLetter) -> None:
        """Accept a letter; may buffer it."""

    def settle(self) -> None:
        """Return when every accepted letter is safe."""

    def close(self) -> None:
        """Settle and let go."""


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """Limits of one loader.

    Attributes:
        max_request_bytes: Upper bound of one append.
        max_unacked_requests: Beyond it `write` waits; with `max_request_bytes` it bounds memory.
        linger_s: Rows are sent when the oldest is this old, even if the request is small; spreads the work of an
            epoch so that its snapshot has little left to wait for.
        ack_timeout_s: A connection that owes a reply for longer counts as lost.
        doubtful_tries: Refusals in a row that usually need a human (permissions, schema, missing table) before the
            process stops. With the default back-off 24 tries are about 10 minutes.
    """

    max_request_bytes: int = 9_000_000
    max_unacked_requests: int = 4
    linger_s: float = 0.2
    ack_timeout_s: float = 60.0
    doubtful_tries: int = 24
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything a loader takes from outside.

    Attributes:
        transport: The loader's own; it closes it.
        dead_letters: Called when the first row is refused, so that a table without bad rows needs no writer.
        on_wait: Called at least twice a second while a call waits for BigQuery; may raise to give up waiting, which
            loses nothing: no snapshot was completed.
        sleep: Sleeps for seconds.
    """

    transport: Transport
    dead_letters: Callable[[], DeadLetterWriter]
    topics: TopicsConfig = field(default_factory=TopicsConfig)
    clock: Clock = field(default_factory=SystemClock)
    random: Random = field(default_factory=Random)
    sleep: Callable[[float], None] = time.sleep
    on_wait: Callable[[], None] = lambda: None


class TableLoader:
    """Appends to one table. See the module.

    Args:
        parent: `projects/P/datasets/D/tables/T`, which the snapshots belong to.
        resume: Bytes of a snapshot, `None` without one.

    Raises:
        StateMismatchError: `resume` belongs to another table or program version.
    """

    def __init__(
        self, table: Table, parent: str, settings: LoaderSettings, env: Environment, resume: bytes | None = None
    ) -> None:
        self._table = table
        self._schema = table.arrow_schema
        self._settings = settings
        self._env = env
        self._log = get_logger("bigquery").bind(table=table.name)
        self._batches: list[pa.RecordBatch] = []
        self._batched_bytes = 0
        self._batched_since_s = 0.0
        self._stream = AppendStream()
        self._stream_name: str | None = None
        self._connection: Connection | None = None
        self._progress_s = 0.0
        self._doubts = 0
        self._appends = Breaker(settings.backoff, env.random)
        self._flushes = Breaker(settings.backoff, env.random)
        self._pending_flushes: list[tuple[FlushTarget, PendingCall]] = []
        self._letters: DeadLetterWriter | None = None
        self._ledger = FlushLedger(parent)
        metrics.WAREHOUSE_BREAKER.labels(table.name).set(0)
        if resume is not None:
            self._ledger.restore(resume)
            self._start_flushes()

    def write(self, rows: pa.RecordBatch) -> None:
        """Take rows over. Waits while `max_unacked_requests` are on their way.

        Raises:
            CrashError: The rows do not have the table's schema, or BigQuery refuses for good.
        """
        if not rows.schema.equals(self._schema):
            raise CrashError(
                f"Rows for {self._table.name} have the schema\n{rows.schema}\ninstead of\n{self._schema}\n"
                "Build batches with `Table.arrow_schema`"
            )
        if not rows.num_rows:
            return
        # An upper bound: a slice counts whole. `nbytes` is exact and costs more than all else here does; `pack` cuts.
        size_bytes = rows.get_total_buffer_size()
        if self._batches and self._batched_bytes + size_bytes > self._request_target_bytes:
            self.send()
        if not self._batches:
            self._batched_since_s = self._env.clock.monotonic_s()
        self._batches.append(rows)
        self._batched_bytes += size_bytes
        is_due = self._env.clock.monotonic_s() - self._batched_since_s >= self._settings.linger_s
        if is_due or self._batched_bytes > self._request_target_bytes:
            self.send()
        else:
            self._advance(0)
        self._poll_flushes()

    def send(self) -> None:
        """Begin to append everything that was written, without waiting for acknowledgements if there is room."""
        if self._batches:
            packed = pack(self._batches, self._table, self._settings.max_request_bytes, self._env.clock.now_ms())
            self._batches, self._batched_bytes = [], 0
            self._refuse(packed.refused)
            for block in packed.blocks:
                self._enqueue(block)
        self._advance(0)

    def tick(self) -> None:
        """The last snapshot is durable: begin to flush what it covers. Never waits.

        Raises:
            CrashError: Rows of an earlier run can no longer be made visible.
        """
        self._poll_flushes()
        self._ledger.prove()
        self._start_flushes()
        for stream in self._ledger.take_done():
            self._env.transport.finalize(stream)
        self._advance(0)

    def snapshot(self) -> bytes:
        """State to resume from. Waits, however long it takes, until BigQuery has acknowledged every row.

        Raises:
            CrashError: BigQuery refuses for good.
        """
        self.send()
        self._wait_for_acks(0)
        self._poll_flushes()
        if self._letters is not None:
            self._letters.settle()
        return self._ledger.snapshot()

    def close(self) -> None:
        """Wait for flushes that are under way, a few seconds at most, and let go of the connection.

        Rows that no tick has proven durable become visible when the flow resumes.
        """
        while self._pending_flushes:
            self._poll_flushes()
            self._env.sleep(0.01)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._letters is not None:
            self._letters.close()
        self._env.transport.close()

    @property
    def _request_target_bytes(self) -> int:
        # Arrow's padding comes on top of the data.
        return (self._settings.max_request_bytes - REQUEST_OVERHEAD_BYTES) * 95 // 100

    def _enqueue(self, block: Block) -> None:
        self._wait_for_acks(self._settings.max_unacked_requests - 1)
        self._stream.add(block)
        self._advance(0)

    def _wait_for_acks(self, unacked_requests: int) -> None:
        while self._stream.unacked_requests > unacked_requests:
            self._env.on_wait()
            self._advance(POLL_S)

    def _advance(self, timeout_s: float) -> None:
        """One round of the protocol: connect, send, take replies; waits up to `timeout_s` for the first one."""
        if self._connection is not None and not self._stream.in_flight:
            # BigQuery closes idle connections; that is news only now and no failure.
            reply = self._connection.receive(0)
            if reply is not None:
                self._disconnect()
        if not self._stream.unacked_requests:
            return
        now_s = self._env.clock.monotonic_s()
        if self._connection is None:
            wait_s = self._appends.wait_s(now_s)
            if wait_s > 0:
                if timeout_s:
                    self._env.sleep(min(wait_s, timeout_s))
                return
            if not self._connect():
                return
        self._exchange(timeout_s)

    def _connect(self) -> bool:
        if self._stream_name is None:
            created = self._env.transport.create_stream(self._table.name)
            if isinstance(created, Reply):
                self._append_failed(created)
                return False
            metrics.WAREHOUSE_STREAMS.labels(self._table.name).inc()
            self._stream_name = created
            self._ledger.open(created)
        self._connection = self._env.transport.connect(self._stream_name, self._schema)
        self._progress_s = self._env.clock.monotonic_s()
        return True

    def _exchange(self, timeout_s: float) -> None:
        while self._connection is not None:
            requests = self._stream.take_sendable()
            if requests and self._stream.in_flight == len(requests):
                self._progress_s = self._env.clock.monotonic_s()
            for request in requests:
                self._connection.send(request)
            if not self._stream.in_flight:
                return
            reply = self._connection.receive(timeout_s)
            timeout_s = 0
            if reply is not None:
                self._progress_s = self._env.clock.monotonic_s()
                self._take(reply)
                continue
            silence_s = self._env.clock.monotonic_s() - self._progress_s
            if silence_s > self._settings.ack_timeout_s:
                self._append_failed(Reply(ReplyKind.RETRY, f"no reply for {silence_s:.0f} s"))
            return

    def _take(self, reply: Reply) -> None:
        if self._stream.is_draining and not reply.ends_connection:
            self._stream.on_reply(reply)
            return
        match reply.kind:
            case ReplyKind.OK | ReplyKind.ALREADY_EXISTS | ReplyKind.BAD_ROWS | ReplyKind.OUT_OF_RANGE:
                self._take_verdict(reply)
            case _:
                self._append_failed(reply)

    def _take_verdict(self, reply: Reply) -> None:
        """A reply about the oldest request: it is in the stream, or it or some of its rows never will be."""
        if self._stream_name is None:
            raise AssertionError("replies come from connections, and these have a stream")
        before = self._stream.acked_rows
        self._refuse(self._stream.on_reply(reply))
        acked = self._stream.acked_rows - before
        self._ledger.acked(self._stream_name, self._stream.acked_rows)
        metrics.WAREHOUSE_ROWS.labels(self._table.name).inc(acked)
        self._doubts = 0
        if self._appends.succeeded():
            self._log.info("bigquery_appends_recovered")
            self._show_breaker()
        if reply.ends_connection:
            self._disconnect()
        if self._stream.must_roll:
            self._roll("rows were refused while copies of requests may still be on their way")

    def _append_failed(self, reply: Reply) -> None:
        """Creating the stream or an append failed: wait and try again, move to a new stream, or stop."""
        metrics.WAREHOUSE_ERRORS.labels(self._table.name, reply.kind.name.lower()).inc()
        if reply.kind is ReplyKind.FATAL:
            raise CrashError(
                f"BigQuery refuses rows for {self._table.name}: {reply.detail}. Compare the table with `datastreamx "
                "plan`; the rows stay in Kafka"
            )
        self._disconnect()
        name = self._stream_name
        if reply.kind is ReplyKind.NOT_FOUND and name and self._stream.acked_rows and self._ledger.is_visible(name):
            self._roll("the stream expired while it was idle")
            return
        if reply.kind in {ReplyKind.DOUBTFUL, ReplyKind.NOT_FOUND}:
            self._doubts += 1
            if self._doubts >= self._settings.doubtful_tries:
                raise CrashError(
                    f"BigQuery has refused rows for {self._table.name} {self._doubts} times in a row: {reply.detail}. "
                    "Check that the table exists with all columns (`datastreamx apply`) and that the service account "
                    "holds roles/bigquery.dataEditor on the dataset; the rows stay in Kafka"
                )
        if self._appends.failed(self._env.clock.monotonic_s()):
            self._log.warning("bigquery_appends_held_back", detail=reply.detail)
            self._show_breaker()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._stream.on_connection_lost()
        if self._stream.must_roll:
            self._roll("the connection broke while rows were being refused")

    def _roll(self, reason: str) -> None:
        """Go on with a new stream. The old one ends at what was acknowledged; its tail is never flushed."""
        self._log.info("bigquery_stream_replaced", reason=reason, stream=self._stream_name)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._stream_name is not None:
            self._ledger.close(self._stream_name)
        self._stream_name = None
        self._stream = self._stream.roll()

    def _refuse(self, refused: list[RefusedRow]) -> None:
        for row in refused:
            if self._letters is None:
                self._letters = self._env.dead_letters()
            self._letters.write(dead_letter(row, self._table, self._env.topics))

    def _start_flushes(self) -> None:
        if self._flushes.wait_s(self._env.clock.monotonic_s()) > 0:
            return
        for target in self._ledger.begin_flushes():
            # FlushRows names the last row, not the one behind it.
            self._pending_flushes.append((target, self._env.transport.flush(target.stream, target.end - 1)))

    def _poll_flushes(self) -> None:
        pending = self._pending_flushes
        self._pending_flushes = []
        for target, call in pending:
            reply = call.poll()
            if reply is None:
                self._pending_flushes.append((target, call))
            else:
                self._take_flush(target, reply)

    def _take_flush(self, target: FlushTarget, reply: Reply) -> None:
        match reply.kind:
            case ReplyKind.OK | ReplyKind.ALREADY_EXISTS:
                rows = self._ledger.flushed(target)
                if reply.kind is ReplyKind.OK:
                    metrics.WAREHOUSE_ROWS_FLUSHED.labels(self._table.name).inc(rows)
                if self._flushes.succeeded():
                    self._log.info("bigquery_flushes_recovered")
                    self._show_breaker()
            case ReplyKind.RETRY | ReplyKind.DOUBTFUL:
                metrics.WAREHOUSE_ERRORS.labels(self._table.name, "flush").inc()
                self._ledger.flush_failed(target)
                if self._flushes.failed(self._env.clock.monotonic_s()):
                    self._log.warning("bigquery_flushes_held_back", detail=reply.detail)
                    self._show_breaker()
            case _:
                raise CrashError(
                    f"{target.end} rows of {target.stream} can no longer be made visible: {reply.detail}. A stream is "
                    "gone 7 days after its last use, or with its table. How to load the range again from Kafka is told "
                    'under "Lost streams" in docs/runbook.md'
                )

    def _show_breaker(self) -> None:
        is_open = self._appends.is_open or self._flushes.is_open
        metrics.WAREHOUSE_BREAKER.labels(self._table.name).set(int(is_open))
