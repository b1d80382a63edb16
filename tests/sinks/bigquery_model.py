"""BUFFERED streams as BigQuery documents them, in memory, with faults that a test chooses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random

import pyarrow as pa

from datastreamx.clock import ManualClock
from datastreamx.model.chunk import DeadLetter
from datastreamx.tables import Column, Kind, Table
from sinks.bigquery.breaker import Backoff
from sinks.bigquery.loader import Environment, LoaderSettings, TableLoader
from sinks.bigquery.transport import AppendRequest, BadRow, Reply, ReplyKind

DATASET = "projects/p/datasets/d"
ROWS = Table(
    name="rows",
    version=1,
    description="Rows of tests.",
    columns=(
        Column("id", Kind.INT64, "Identity", required=True),
        Column("event_time", Kind.TIMESTAMP, "Partition", required=True),
        Column("note", Kind.STRING, "Padding"),
        Column("source_partition", Kind.INT64, "Origin", required=True),
        Column("source_offset", Kind.INT64, "Origin", required=True),
    ),
    partition_by="event_time",
    cluster_by=("id",),
    key=("id",),
)
PARENT = f"{DATASET}/tables/{ROWS.name}"
CLOCK_START_MS = ManualClock().now_ms()


def batch(ids: Iterable[int], note: str = "", time_ms: int = CLOCK_START_MS) -> pa.RecordBatch:
    listed = list(ids)
    return pa.RecordBatch.from_pydict(
        {
            "id": listed,
            "event_time": [time_ms * 1000] * len(listed),
            "note": [note] * len(listed),
            "source_partition": [3] * len(listed),
            "source_offset": [1000 + i for i in listed],
        },
        schema=ROWS.arrow_schema,
    )


class Fault(Enum):
    """What becomes of one append that reaches the server."""

    NONE = auto()
    LOSE_ACK = auto()
    """Written, then the connection is cut."""
    CUT = auto()
    """Not written, the connection is cut."""
    REFUSE = auto()
    """UNAVAILABLE as a reply; the connection stays."""
    HANG = auto()
    """No reply, ever."""


@dataclass
class ModelStream:
    ids: list[int] = field(default_factory=list)
    flushed: int = 0
    is_finalized: bool = False
    requests: list[AppendRequest] = field(default_factory=list)


class ModelBigQuery:
    """A `Transport`. `faults` are used up by appends in order, then there are none.

    Attributes:
        outage: While set, every call gets this reply.
        bad_ids: Rows that are refused.
        strays: Requests of abandoned connections that may still reach the server; see `deliver_all_strays`.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.streams: dict[str, ModelStream] = {}
        self.faults: deque[Fault] = deque()
        self.outage: Reply | None = None
        self.bad_ids: set[int] = set()
        self.strays: list[tuple[str, list[AppendRequest]]] = []
        self.calls: list[str] = []
        self.are_flushes_slow = False

    @property
    def visible_ids(self) -> list[int]:
        return [i for stream in self.streams.values() for i in stream.ids[: stream.flushed]]

    def create_stream(self, table: str) -> str | Reply:
        self.calls.append("create")
        if self.outage is not None:
            return self.outage
        name = f"{DATASET}/tables/{table}/streams/{len(self.streams)}"
        self.streams[name] = ModelStream()
        return name

    def connect(self, stream: str, schema: pa.Schema) -> ModelConnection:
        self.calls.append("connect")
        return ModelConnection(self, stream, schema)

    def flush(self, stream: str, offset: int) -> ModelFlush:
        self.calls.append(f"flush {stream.rpartition('/')[2]} {offset}")
        return ModelFlush(self, stream, offset)

    def finalize(self, stream: str) -> None:
        self.calls.append(f"finalize {stream.rpartition('/')[2]}")
        if stream in self.streams:
            self.streams[stream].is_finalized = True

    def close(self) -> None:
        self.calls.append("close")

    def expire(self) -> None:
        """Forget all streams but not what they made visible."""
        for name in list(self.streams):
            stream = self.streams.pop(name)
            del stream.ids[stream.flushed :]
            self.streams[f"expired {name}"] = stream

    def append(self, name: str, request: AppendRequest) -> Reply:
        stream = self.streams.get(name)
        if stream is None:
            return Reply(ReplyKind.NOT_FOUND, "no such stream")
        rows = pa.ipc.read_record_batch(pa.py_buffer(request.body), ROWS.arrow_schema)
        assert rows.num_rows > 0
        ids = rows.column("id").to_pylist()
        if request.offset < len(stream.ids):
            return Reply(ReplyKind.ALREADY_EXISTS, "offset taken")
        if request.offset > len(stream.ids):
            return Reply(ReplyKind.OUT_OF_RANGE, "offset beyond end")
        bad = tuple(BadRow(index, "spoiled") for index, i in enumerate(ids) if i in self.bad_ids)
        if bad:
            return Reply(ReplyKind.BAD_ROWS, "row errors", bad_rows=bad)
        assert not stream.is_finalized
        stream.ids += ids
        stream.requests.append(request)
        return Reply(ReplyKind.OK, offset=request.offset)

    def deliver_all_strays(self) -> None:
        """Let all requests of abandoned connections arrive now."""
        for name, requests in self.strays:
            while requests:
                self.append(name, requests.pop(0))

    def deliver_some_strays(self, random: Random) -> None:
        """Let some requests of abandoned connections arrive now, each connection's in order."""
        for name, requests in self.strays:
            for _ in range(random.randint(0, len(requests))):
                self.append(name, requests.pop(0))


class ModelConnection:
    def __init__(self, server: ModelBigQuery, stream: str, schema: pa.Schema) -> None:
        assert schema.equals(ROWS.arrow_schema)
        self._server = server
        self._stream = stream
        self._requests: list[AppendRequest] = []
        self._is_cut = False
        self._is_hung = False

    def send(self, request: AppendRequest) -> None:
        self._requests.append(request)

    def receive(self, timeout_s: float) -> Reply | None:
        if self._is_cut:
            return Reply(ReplyKind.RETRY, "cut", ends_connection=True)
        if self._server.outage is not None:
            self._is_cut = True
            return Reply(self._server.outage.kind, self._server.outage.detail, ends_connection=True)
        if self._is_hung or not self._requests:
            self._server.clock.advance(int(timeout_s * 1000))
            return None
        # Without a wait, replies come only now and then, so that requests pile up as they do on a network.
        if not timeout_s and len(self._requests) < 2:
            return None
        return self._process(self._server.faults.popleft() if self._server.faults else Fault.NONE)

    def _process(self, fault: Fault) -> Reply | None:
        match fault:
            case Fault.HANG:
                self._is_hung = True
                return None
            case Fault.CUT:
                self._is_cut = True
                return Reply(ReplyKind.RETRY, "cut", ends_connection=True)
            case Fault.LOSE_ACK:
                self._server.append(self._stream, self._requests.pop(0))
                self._is_cut = True
                return Reply(ReplyKind.RETRY, "cut", ends_connection=True)
            case Fault.REFUSE:
                self._requests.pop(0)
                return Reply(ReplyKind.RETRY, "refused")
            case _:
                return self._server.append(self._stream, self._requests.pop(0))

    def cut(self) -> None:
        self._is_cut = True

    def close(self) -> None:
        self._server.strays.append((self._stream, self._requests))


class ModelFlush:
    def __init__(self, server: ModelBigQuery, stream: str, offset: int) -> None:
        self._server = server
        self._stream = stream
        self._offset = offset

    def poll(self) -> Reply | None:
        if self._server.are_flushes_slow:
            return None
        return self._server.outage or self._flush()

    def _flush(self) -> Reply:
        stream = self._server.streams.get(self._stream)
        if stream is None:
            return Reply(ReplyKind.NOT_FOUND, "no such stream")
        assert not stream.is_finalized
        if self._offset >= len(stream.ids):
            return Reply(ReplyKind.OUT_OF_RANGE, "beyond the end")
        if self._offset < stream.flushed:
            return Reply(ReplyKind.ALREADY_EXISTS, "flushed before")
        stream.flushed = self._offset + 1
        return Reply(ReplyKind.OK)


class Letters:
    """A `DeadLetterWriter` that keeps what it gets."""

    def __init__(self) -> None:
        self.accepted: list[DeadLetter] = []
        self.settled = 0

    def write(self, letter: DeadLetter) -> None:
        self.accepted.append(letter)

    def settle(self) -> None:
        self.settled = len(self.accepted)

    def close(self) -> None:
        self.settle()


class Bench:
    """A loader in its surroundings; `resume` replaces it by a new one, as a restart does."""

    def __init__(self, random: Random | None = None, **limits: float) -> None:
        self.clock = ManualClock()
        self.server = ModelBigQuery(self.clock)
        self.letters = Letters()
        self.slept_s: list[float] = []
        self.on_wait: Callable[[], None] = lambda: None
        self._random = random or Random(1)
        self._settings = LoaderSettings(**{"linger_s": 0.0, "backoff": Backoff(0.1, 30.0), **limits})  # type: ignore[arg-type]
        self.loader = self.resume(None)

    def resume(self, state: bytes | None) -> TableLoader:
        self.loader = TableLoader(
            ROWS,
            PARENT,
            self._settings,
            Environment(
                transport=self.server,
                dead_letters=lambda: self.letters,
                clock=self.clock,
                random=self._random,
                sleep=self._sleep,
                on_wait=self._wait,
            ),
            state,
        )
        return self.loader

    def epoch(self) -> bytes:
        """Snapshot, then the tick that proves it, then the time in which its flush ends."""
        state = self.loader.snapshot()
        self.loader.tick()
        self.loader._poll_flushes()
        return state

    def _wait(self) -> None:
        self.on_wait()

    def _sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        self.clock.advance(max(1, int(duration_s * 1000)))
