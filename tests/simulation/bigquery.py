"""BigQuery's Storage Write API with BUFFERED streams, as far as the loader can tell.

What is true to the original, after `storage.proto` and research on it: an append lands exactly at its offset or not at
all; replies come in the order of requests; a connection that is cut may have written what it did not acknowledge, and
what was under way may still arrive later, in order; a request with a bad row writes nothing; FlushRows is inclusive,
a repetition is ALREADY_EXISTS, and its reply may be lost after it took effect; a finalized stream takes no call.
What is left out: expiry of streams, quotas, changes of schema, commit and pending streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from datastreamx.tables import TABLES, Row
from sinks.bigquery.transport import AppendRequest, BadRow, Reply, ReplyKind
from tests.simulation.world import World

BadRows = Callable[[str, pa.RecordBatch], tuple[BadRow, ...]]
"""(table, rows) to those that BigQuery refuses."""


@dataclass
class Stream:
    """One BUFFERED stream.

    Attributes:
        ends: Offset behind each batch.
    """

    table: str
    batches: list[pa.RecordBatch] = field(default_factory=list)
    end: int = 0
    flushed: int = 0
    is_finalized: bool = False


class SimulatedBigQuery:
    """The service. `outage` is the reply to every call while it lasts, see `fail_until`."""

    def __init__(self, world: World, bad_rows: BadRows) -> None:
        self.world = world
        self.random = world.random("bigquery")
        self.streams: dict[str, Stream] = {}
        self._bad_rows = bad_rows
        self._outage = Reply(ReplyKind.RETRY)
        self._outage_until_ms = 0

    def fail_until(self, when_ms: int, detail: str) -> None:
        """Answer everything with UNAVAILABLE or RESOURCE_EXHAUSTED until then."""
        self._outage = Reply(ReplyKind.RETRY, detail)
        self._outage_until_ms = when_ms

    @property
    def outage(self) -> Reply | None:
        return self._outage if self.world.clock.now_ms() < self._outage_until_ms else None

    def draw(self, probability: float) -> bool:
        """Whether a fault happens; none does at the end of a history."""
        return not self.world.is_calm and self.random.random() < probability

    def append(self, name: str, request: AppendRequest) -> Reply:
        """One append that reached the service."""
        stream = self.streams[name]
        if stream.is_finalized:
            return Reply(ReplyKind.FATAL, "STREAM_FINALIZED")
        if request.offset < stream.end:
            return Reply(ReplyKind.ALREADY_EXISTS, f"the stream ends at {stream.end}")
        if request.offset > stream.end:
            return Reply(ReplyKind.OUT_OF_RANGE, f"the stream ends at {stream.end}")
        table = TABLES[stream.table]
        rows = pa.ipc.read_record_batch(pa.py_buffer(request.body), table.arrow_schema)
        bad = self._bad_rows(stream.table, rows)
        if bad:
            self.world.seen["fault: bad rows"] += 1
            return Reply(ReplyKind.BAD_ROWS, "row errors", bad_rows=bad)
        stream.batches.append(rows)
        stream.end += rows.num_rows
        return Reply(ReplyKind.OK, offset=request.offset)

    def arrive(self, name: str, request: AppendRequest) -> None:
        """An append whose sender hears no answer."""
        self.append(name, request)

    def flush(self, name: str, offset: int) -> Reply:
        """One flush that reached the service."""
        stream = self.streams[name]
        if stream.is_finalized:
            return Reply(ReplyKind.FATAL, "STREAM_FINALIZED")
        if offset >= stream.end:
            return Reply(ReplyKind.OUT_OF_RANGE, f"the stream ends at {stream.end}")
        if offset < stream.flushed:
            return Reply(ReplyKind.ALREADY_EXISTS, "flushed before")
        stream.flushed = offset + 1
        return Reply(ReplyKind.OK)

    def visible(self, table: str) -> list[Row]:
        """Rows that a query sees; timestamps in microseconds."""
        batches = []
        for stream in self.streams.values():
            if stream.table != table:
                continue
            left = stream.flushed
            for batch in stream.batches:
                if left > 0:
                    batches.append(batch.slice(0, left))
                    left -= batch.num_rows
        if not batches:
            return []
        columns = [
            (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
            for column in pa.Table.from_batches(batches).columns
        ]
        return list(zip(*columns, strict=True))

    def is_all_visible(self) -> bool:
        """Whether nothing waits for a flush; streams whose tails were given up have none."""
        return all(stream.flushed == stream.end for stream in self.streams.values())


class SimulatedTransport:
    """`Transport` of one loader. `sleep` lets time pass for its process."""

    def __init__(self, service: SimulatedBigQuery, sleep: Callable[[int], None]) -> None:
        self.service = service
        self.sleep = sleep
        self._connections: list[SimulatedConnection] = []

    def create_stream(self, table: str) -> str | Reply:
        service = self.service
        if service.outage is not None or service.draw(0.02):
            service.world.seen["fault: create refused"] += 1
            return service.outage or Reply(ReplyKind.RETRY, "503")
        name = f"streams/{len(service.streams)}"
        service.streams[name] = Stream(table)
        return name

    def connect(self, stream: str, schema: pa.Schema) -> SimulatedConnection:
        del schema
        self._connections.append(SimulatedConnection(self, stream))
        return self._connections[-1]

    def flush(self, stream: str, offset: int) -> _Flush:
        return _Flush(self.service, stream, offset)

    def finalize(self, stream: str) -> None:
        # Best effort: a third of them never arrive.
        if self.service.random.random() < 0.7:
            self.service.streams[stream].is_finalized = True

    def close(self) -> None:
        """The process ends in good order."""

    def kill(self) -> None:
        """The process died: what was sent may still arrive."""
        for connection in self._connections:
            connection.close()


class SimulatedConnection:
    """One AppendRows connection."""

    def __init__(self, transport: SimulatedTransport, stream: str) -> None:
        self._service = transport.service
        self._world = transport.service.world
        self._transport = transport
        self._stream = stream
        self._under_way: deque[tuple[int, AppendRequest]] = deque()
        self._replies: deque[tuple[int, Reply]] = deque()
        self._is_open = True
        self._is_hung = False

    def send(self, request: AppendRequest) -> None:
        random, now_ms = self._service.random, self._world.clock.now_ms()
        after_ms = self._under_way[-1][0] if self._under_way else now_ms
        arrive_ms = max(after_ms, now_ms + random.choice((0, 0, 2, 20, random.randint(0, 300))))
        self._under_way.append((arrive_ms, request))
        self._world.at(arrive_ms, self._arrive)

    def receive(self, timeout_s: float) -> Reply | None:
        reply = self._next_reply()
        if reply is None and timeout_s:
            due_ms = self._replies[0][0] if self._replies else self._under_way[0][0] if self._under_way else 10**15
            wait_ms = max(1, due_ms - self._world.clock.now_ms())
            self._transport.sleep(min(round(timeout_s * 1000), wait_ms))
            reply = self._next_reply()
        return reply

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._replies.clear()
        if not self._under_way:
            return
        random, now_ms = self._service.random, self._world.clock.now_ms()
        arriving = random.randint(0, len(self._under_way))
        late_ms = random.choice((0, random.randint(0, 3_000)))
        strays = [request for _, request in self._under_way][:arriving]
        self._under_way.clear()
        for request in strays:
            self._world.seen["stray appends"] += 1
            self._world.at(now_ms + late_ms, partial(self._service.arrive, self._stream, request))

    def _next_reply(self) -> Reply | None:
        if self._replies and self._replies[0][0] <= self._world.clock.now_ms():
            return self._replies.popleft()[1]
        return None

    def _arrive(self) -> None:
        now_ms = self._world.clock.now_ms()
        if not self._under_way or self._under_way[0][0] > now_ms or self._is_hung:
            return
        _, request = self._under_way.popleft()
        service = self._service
        if service.outage is not None:
            self._end(service.outage)
        elif service.draw(0.02):
            self._world.fault("bigquery", "ack lost", self._stream)
            service.append(self._stream, request)
            self._end(Reply(ReplyKind.RETRY, "cut"))
        elif service.draw(0.02):
            self._world.fault("bigquery", "connection cut", self._stream)
            self._end(Reply(ReplyKind.RETRY, "cut"))
        elif service.draw(0.01):
            self._world.fault("bigquery", "append refused", self._stream)
            self._reply(Reply(ReplyKind.RETRY, "429"))
        elif service.draw(0.004):
            # Whether it was written before the silence, nobody can tell.
            self._world.fault("bigquery", "silence", self._stream)
            self._is_hung = True
            if service.random.random() < 0.5:
                service.append(self._stream, request)
        else:
            self._reply(service.append(self._stream, request))

    def _reply(self, reply: Reply) -> None:
        after_ms = self._replies[-1][0] if self._replies else 0
        due_ms = max(after_ms, self._world.clock.now_ms() + self._service.random.choice((0, 1, 10, 100)))
        self._replies.append((due_ms, reply))

    def _end(self, reply: Reply) -> None:
        """The last reply; what else is under way is lost or strays, as `close` decides."""
        self._reply(Reply(reply.kind, reply.detail, ends_connection=True))
        self._is_hung = True


class _Flush:
    """A FlushRows call under way. It takes effect on arrival, whoever still waits for it."""

    def __init__(self, service: SimulatedBigQuery, stream: str, offset: int) -> None:
        self._service = service
        self._reply: Reply | None = None
        self._call = (stream, offset)
        service.world.at(service.world.clock.now_ms() + service.random.choice((0, 1, 10, 200)), self._arrive)

    def poll(self) -> Reply | None:
        return self._reply

    def _arrive(self) -> None:
        service = self._service
        if service.outage is not None:
            self._reply = service.outage
        elif service.draw(0.03):
            service.world.seen["fault: flush refused"] += 1
            self._reply = Reply(ReplyKind.RETRY, "503")
        elif service.draw(0.03):
            service.world.seen["fault: flush reply lost"] += 1
            service.flush(*self._call)
            self._reply = Reply(ReplyKind.RETRY, "deadline exceeded")
        else:
            self._reply = service.flush(*self._call)
