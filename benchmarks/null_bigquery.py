"""A BigQuery that stores nothing: the Storage Write API over gRPC, as far as the loader speaks it.

    python -m benchmarks.null_bigquery

prints `READY PORT` and serves on 127.0.0.1 until SIGTERM; then it prints what it was sent, a `Seen` as JSON. Of an
append it reads the stream and the offset, which precede the rows, and nothing behind them: so it takes several million
rows per second, and the client is what a measurement sees.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import msgspec
from google.cloud.bigquery_storage_v1 import types

from benchmarks.contest import ROOT, module

_SERVICE = "google.cloud.bigquery.storage.v1.BigQueryWrite"
_THREADS = 32
"""A connection keeps one for its whole life."""

_WRITE_STREAM, _OFFSET = 0x0A, 0x12
_VALUE = 0x08
_Response = types.AppendRowsResponse.pb()


class Seen(msgspec.Struct, frozen=True):
    """What was sent here.

    Attributes:
        appends: Requests with rows.
        append_bytes: Their size.
        visible: Rows up to the last flush, by table.
        cpu_s: Of this process.
    """

    appends: int
    append_bytes: int
    visible: dict[str, int]
    cpu_s: float


class NullBigQuery:
    """Says yes."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._appends = self._append_bytes = 0
        self._flushed: dict[str, int] = {}

    @property
    def seen(self) -> Seen:
        """What was sent so far."""
        visible: dict[str, int] = {}
        for stream, rows in self._flushed.items():
            table = stream.split("/")[5]
            visible[table] = visible.get(table, 0) + rows
        own = os.times()
        return Seen(self._appends, self._append_bytes, visible, own.user + own.system)

    def handlers(self) -> grpc.GenericRpcHandler:
        """All methods, on bytes."""
        unary, streaming = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "CreateWriteStream": unary(self._create),
                "AppendRows": streaming(self._append),
                "FlushRows": unary(self._flush),
                "FinalizeWriteStream": unary(lambda _request, _context: b""),
            },
        )

    def _create(self, request: bytes, _context: grpc.ServicerContext) -> bytes:
        parent = types.CreateWriteStreamRequest.deserialize(request).parent
        name = f"{parent}/streams/{next(self._numbers)}"
        created: bytes = types.WriteStream.serialize(types.WriteStream(name=name))
        return created

    def _append(self, requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            with self._lock:
                self._appends += 1
                self._append_bytes += len(request)
            response = _Response()
            response.append_result.offset.value = offset_of(request)
            yield response.SerializeToString()

    def _flush(self, request: bytes, _context: grpc.ServicerContext) -> bytes:
        flush = types.FlushRowsRequest.deserialize(request)
        with self._lock:
            self._flushed[flush.write_stream] = int(flush.offset) + 1
        answer: bytes = types.FlushRowsResponse.serialize(types.FlushRowsResponse(offset=flush.offset))
        return answer


def offset_of(request: bytes) -> int:
    """Offset of an AppendRowsRequest, whose first fields are the stream (1, may be absent) and the offset (2).

    Fields of a message are written in the order of their numbers by every common library. Raises `ValueError` if this
    one was not.
    """
    at = 0
    if request[at] == _WRITE_STREAM:
        size, at = _varint(request, 1)
        at += size
    if request[at] != _OFFSET:
        raise ValueError(f"field {request[at] >> 3} stands where the offset is expected")
    size, at = _varint(request, at + 1)
    if not size:
        return 0
    if request[at] != _VALUE:
        raise ValueError("the offset has no value")
    return _varint(request, at + 1)[0]


def _varint(octets: bytes, at: int) -> tuple[int, int]:
    """Value, and the place behind it."""
    value = shift = 0
    while True:
        octet = octets[at]
        at += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:  # noqa: PLR2004  the bit that says that more follow
            return value, at
        shift += 7


@dataclass
class Endpoint:
    """A running one.

    Attributes:
        target: Its `host:port`.
        seen: What it was sent; known once it has ended.
    """

    target: str
    seen: Seen | None = None


@contextmanager
def running(core: int) -> Iterator[Endpoint]:
    """One in a process of its own, on a core of its own if there is one."""
    process = subprocess.Popen(module("benchmarks.null_bigquery"), cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: S603  our own command
    try:
        if process.stdout is None:
            raise AssertionError("it was asked for")
        endpoint = Endpoint(f"127.0.0.1:{process.stdout.readline().split()[1]}")
        move(process.pid, core)
        yield endpoint
        process.terminate()
        endpoint.seen = msgspec.json.decode(process.communicate()[0], type=Seen)
    finally:
        process.kill()
        process.wait()


def move(pid: int, core: int) -> None:
    """Let a process, with all its threads, run on this core alone; does nothing if there is none of that number."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


def _serve() -> None:
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stopped.set())
    served = NullBigQuery()
    options = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(_THREADS), handlers=[served.handlers()], options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"READY {port}\n")
    sys.stdout.flush()
    stopped.wait()
    server.stop(None).wait()
    sys.stdout.write(msgspec.json.encode(served.seen).decode() + "\n")


if __name__ == "__main__":
    _serve()
