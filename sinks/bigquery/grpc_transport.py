"""The Storage Write API over gRPC.

Own handling of the bidirectional call: the client library's `AppendRowsStream` retries for 24 hours by itself and does
not send again what was not acknowledged when a connection broke.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any

import grpc
import pyarrow as pa
from google.api_core.gapic_v1.routing_header import to_grpc_metadata
from google.cloud.bigquery_storage_v1 import types
from grpc_status import rpc_status

from sinks.bigquery.classify import classify
from sinks.bigquery.transport import AppendRequest, BadRow, Reply, ReplyKind

UNARY_TIMEOUT_S = 10.0

# Names this program in BigQuery's metadata and to Google's support.
TRACE_ID = "datastreamx"

_SERVICE = "/google.cloud.bigquery.storage.v1.BigQueryWrite/"
# The protocol buffer classes below the library's wrappers: building a request costs a tenth.
_RawAppend = types.AppendRowsRequest.pb()
_RawReply = types.AppendRowsResponse.pb()


class GrpcTransport:
    """`Transport` over one channel, which it owns.

    Args:
        channel: As from `client.write_channel`.
        dataset: `projects/P/datasets/D`.
        timeout_s: Limit of every unary call.
    """

    def __init__(self, channel: grpc.Channel, dataset: str, timeout_s: float = UNARY_TIMEOUT_S) -> None:
        self._channel = channel
        self._dataset = dataset
        self._timeout_s = timeout_s
        self._create = channel.unary_unary(
            _SERVICE + "CreateWriteStream",
            request_serializer=types.CreateWriteStreamRequest.serialize,
            response_deserializer=types.WriteStream.deserialize,
        )
        self._append = channel.stream_stream(
            _SERVICE + "AppendRows",
            request_serializer=_RawAppend.SerializeToString,
            response_deserializer=_RawReply.FromString,
        )
        self._flush = channel.unary_unary(
            _SERVICE + "FlushRows",
            request_serializer=types.FlushRowsRequest.serialize,
            response_deserializer=types.FlushRowsResponse.deserialize,
        )
        self._finalize = channel.unary_unary(
            _SERVICE + "FinalizeWriteStream",
            request_serializer=types.FinalizeWriteStreamRequest.serialize,
            response_deserializer=types.FinalizeWriteStreamResponse.deserialize,
        )

    def create_stream(self, table: str) -> str | Reply:
        """See `Transport.create_stream`."""
        parent = f"{self._dataset}/tables/{table}"
        request = types.CreateWriteStreamRequest(
            parent=parent, write_stream=types.WriteStream(type_=types.WriteStream.Type.BUFFERED)
        )
        try:
            created = self._create(request, timeout=self._timeout_s, metadata=_routing("parent", parent))
        except grpc.RpcError as error:
            return _failure(error)
        name: str = created.name
        return name

    def connect(self, stream: str, schema: pa.Schema) -> GrpcConnection:
        """See `Transport.connect`."""
        return GrpcConnection(self._append, stream, schema)

    def flush(self, stream: str, offset: int) -> GrpcCall:
        """See `Transport.flush`."""
        request = types.FlushRowsRequest(write_stream=stream, offset=offset)
        metadata = _routing("write_stream", stream)
        return GrpcCall(self._flush.future(request, timeout=self._timeout_s, metadata=metadata))

    def finalize(self, stream: str) -> None:
        """See `Transport.finalize`."""
        request = types.FinalizeWriteStreamRequest(name=stream)
        self._finalize.future(request, timeout=self._timeout_s, metadata=_routing("name", stream))

    def close(self) -> None:
        """See `Transport.close`."""
        self._channel.close()


class GrpcCall:
    """`PendingCall` over a gRPC future."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def poll(self) -> Reply | None:
        """See `PendingCall.poll`."""
        if not self._future.done():
            return None
        if self._future.cancelled():
            return Reply(ReplyKind.RETRY, "cancelled")
        error = self._future.exception()
        return Reply(ReplyKind.OK) if error is None else _failure(error)


class GrpcConnection:
    """`Connection` over one bidirectional call.

    gRPC takes requests from an iterator in a thread of its own; a second thread reads the replies, so that waiting for
    one can have a time limit.
    """

    def __init__(self, method: Any, stream: str, schema: pa.Schema) -> None:
        self._stream = stream
        self._schema: bytes | None = schema.serialize().to_pybytes()
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._replies: SimpleQueue[Reply] = SimpleQueue()
        self._call = method(iter(self._requests.get, None), metadata=_routing("write_stream", stream))
        threading.Thread(target=self._read, args=(self._call,), name="bigquery-replies", daemon=True).start()

    def send(self, request: AppendRequest) -> None:
        """See `Connection.send`."""
        message = _RawAppend()
        message.offset.value = request.offset
        message.arrow_rows.rows.serialized_record_batch = request.body
        if self._schema is not None:
            # Stream, schema and trace hold for the whole connection and belong into its first request only.
            message.write_stream = self._stream
            message.trace_id = TRACE_ID
            message.arrow_rows.writer_schema.serialized_schema = self._schema
            self._schema = None
        self._requests.put(message)

    def receive(self, timeout_s: float) -> Reply | None:
        """See `Connection.receive`."""
        try:
            return self._replies.get(timeout=timeout_s) if timeout_s else self._replies.get_nowait()
        except Empty:
            return None

    def close(self) -> None:
        """See `Connection.close`."""
        # Without the end mark gRPC's thread would wait for requests for ever.
        self._requests.put(None)
        self._call.cancel()

    def _read(self, replies: Iterator[Any]) -> None:
        try:
            for reply in replies:
                self._replies.put(_append_reply(reply))
        except grpc.RpcError as error:
            self._replies.put(_failure(error, ends_connection=True))
        else:
            self._replies.put(Reply(ReplyKind.RETRY, "BigQuery closed the connection", ends_connection=True))


def _append_reply(reply: Any) -> Reply:
    if reply.row_errors:
        bad = tuple(BadRow(row.index, row.message) for row in reply.row_errors)
        return Reply(ReplyKind.BAD_ROWS, reply.error.message, bad_rows=bad)
    if reply.HasField("error"):
        status = reply.error
        return Reply(classify(status.code, status.details), status.message)
    result = reply.append_result
    return Reply(ReplyKind.OK, offset=result.offset.value if result.HasField("offset") else None)


def _failure(error: Any, *, ends_connection: bool = False) -> Reply:
    """Reply for a call that ended with a status; `error` is at once exception and call."""
    status = rpc_status.from_call(error)
    details = status.details if status is not None else ()
    kind = classify(error.code().value[0], details) if error.code() is not grpc.StatusCode.OK else ReplyKind.RETRY
    return Reply(kind, f"{error.code().name}: {error.details()}", ends_connection=ends_connection)


def _routing(name: str, value: str) -> tuple[tuple[str, str], ...]:
    """Header by which Google routes a call to the table's region; a stub does not add it by itself."""
    return (to_grpc_metadata(((name, value),)),)  # type: ignore[no-untyped-call]
