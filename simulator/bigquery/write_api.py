"""The Storage Write API as BigQuery answers it, on top of `bqemulator`'s stream registry, with faults on demand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

import grpc
import pyarrow as pa
from bqemulator.api.routes.tabledata import _build_arrow_schema, _fields_raw_from_schema
from bqemulator.domain.events import TableDataChanged
from bqemulator.grpc_api import write_servicer as stock
from bqemulator.storage.sql_identifiers import quoted_table_ref
from bqemulator.streaming.arrow_deserializer import deserialize_arrow_rows
from bqemulator.streaming.proto_deserializer import ProtoRowDecoder, proto_rows_to_arrow_table
from bqemulator.streaming.strategies import select_strategy
from bqemulator.streaming.strategies.base import AppendStatus
from bqemulator.streaming.write_stream import (
    DEFAULT_STREAM_SUFFIX,
    WriteStream,
    WriteStreamState,
    WriteStreamType,
    parse_stream_name,
)
from google.cloud.bigquery_storage_v1 import types
from google.protobuf import any_pb2
from google.rpc import code_pb2, status_pb2  # type: ignore[import-untyped]  # has no type information
from grpc_status import rpc_status

from simulator.bigquery.faults import Call, FaultInjector, Method, Spoil
from simulator.bigquery.rows import BadRow, ExtraFieldsError, align, bad_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bqemulator.api.dependencies import AppContext
    from bqemulator.catalog.models import TableMeta

    from simulator.bigquery.engine import LocalEngine

# "AppendRows request size limit: 10 MB" in BigQuery's quota page. Client libraries of 2026 mention 20 MB; the stricter
# number is the one a writer can rely on.
REQUEST_BYTES_MAX = 10 * 1024 * 1024

# How often a hanging call looks whether its client is still there.
HANG_POLL_S = 0.1

_StorageErrorCode = types.StorageError.StorageErrorCode
_ROW_ERRORS = (
    "Errors found while processing rows. Please refer to the row_errors field for details. "
    "The list may not be complete because of the size limitations."
)


class LocalWriteHandler(stock.BigQueryWriteHandler):
    """`BigQueryWriteHandler` with the answers that matter to a writer put right."""

    def __init__(self, context: AppContext, engine: LocalEngine, faults: FaultInjector) -> None:
        super().__init__(context)
        self._engine = engine
        self._faults = faults

    def _handle_create_write_stream(self, request_bytes: bytes, context: grpc.ServicerContext) -> bytes:
        """Add faults; the answer itself is stock's."""
        create = super()._handle_create_write_stream
        return self._spoiled(Method.CREATE_WRITE_STREAM, context, lambda: create(request_bytes, context))

    def _handle_finalize_write_stream(self, request_bytes: bytes, context: grpc.ServicerContext) -> bytes:
        """Add faults; the answer itself is stock's."""
        finalize = super()._handle_finalize_write_stream
        return self._spoiled(Method.FINALIZE_WRITE_STREAM, context, lambda: finalize(request_bytes, context))

    def _handle_flush_rows(self, request_bytes: bytes, context: grpc.ServicerContext) -> bytes:
        """Make rows visible up to and including the offset.

        BigQuery: the offset is inclusive; a repeated flush is harmless and answers ALREADY_EXISTS; beyond the end is
        OUT_OF_RANGE; after finalize INVALID_ARGUMENT. Stock: the offset is exclusive, a repetition OUT_OF_RANGE, and
        flushed rows stay in memory for ever.
        """
        return self._spoiled(Method.FLUSH_ROWS, context, lambda: self._flush(request_bytes, context))

    def _handle_append_rows(self, request_iterator: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Append the rows of every request of one connection, in order.

        BigQuery: refuses unknown columns and bad rows with structured details, writes nothing of such a request,
        keeps the connection open, and reports a changed table schema in `updated_schema`. Stock drops unknown
        columns, stores NULL in REQUIRED columns, sends no details, and keeps the schema of the connection's start.
        """
        connection: _Connection | None = None
        for request_bytes in request_iterator:
            call = self._faults.count(Method.APPEND_ROWS)
            if not self._delay(call, context):
                return
            _refuse(call, context)
            if len(request_bytes) > REQUEST_BYTES_MAX:
                too_large = f"AppendRows request too large: {len(request_bytes)} limit {REQUEST_BYTES_MAX}"
                name = connection.stream.name if connection else ""
                yield types.AppendRowsResponse.serialize(_refusal(name, code_pb2.INVALID_ARGUMENT, too_large))
                continue
            request = types.AppendRowsRequest.deserialize(request_bytes)
            # Only the first request of a connection has to name the stream.
            if connection is None or request.write_stream not in ("", connection.stream.name):
                connection = self._open(request.write_stream, context)
            response = self._append(connection, request, call.spoil)
            if not self._hold_ack(call, context):
                return
            if call.spoil is Spoil.DROP_ACK:
                _fail(context, grpc.StatusCode.UNAVAILABLE, "injected: carried out, but the answer is lost")
            yield types.AppendRowsResponse.serialize(response)

    def _flush_to_target(self, stream: WriteStream, rows: pa.Table) -> None:
        """Insert rows into the table, by column name and under the engine's one lock.

        Stock holds a lock of its own, which does not keep queries out, and inserts by position, which goes wrong once
        a column was added.
        """
        table = quoted_table_ref(stream.project_id, stream.dataset_id, stream.table_id)
        view = f"__append_{uuid4().hex}"
        with self._engine.lock:
            self._engine.connection.register(view, rows)
            try:
                self._engine.execute(f'INSERT INTO {table} BY NAME SELECT * FROM "{view}"')  # noqa: S608  quoted above
            finally:
                self._engine.connection.unregister(view)
            meta = self._table(stream)
            if meta is not None:
                self._ctx.catalog.update_table(meta.model_copy(update={"num_rows": meta.num_rows + rows.num_rows}))
        self._ctx.events.publish(TableDataChanged(stream.project_id, stream.dataset_id, stream.table_id))

    def _open(self, stream_name: str, context: grpc.ServicerContext) -> _Connection:
        stream = self._find(stream_name)
        if stream is None:
            _fail(
                context,
                grpc.StatusCode.NOT_FOUND,
                f"Requested entity was not found. Entity: {stream_name}",
                _StorageErrorCode.STREAM_NOT_FOUND,
            )
        meta = self._table(stream)
        if meta is None:
            _fail(
                context,
                grpc.StatusCode.NOT_FOUND,
                f"Table of {stream_name} not found",
                _StorageErrorCode.TABLE_NOT_FOUND,
            )
        return _Connection(stream, meta)

    def _find(self, stream_name: str) -> WriteStream | None:
        if not stream_name.endswith(f"/streams/{DEFAULT_STREAM_SUFFIX}"):
            return self._manager.get(stream_name)
        try:
            project_id, dataset_id, table_id, _ = parse_stream_name(stream_name)
        except ValueError:
            return None
        return self._manager.get_or_create_default(project_id, dataset_id, table_id)

    def _append(
        self, connection: _Connection, request: types.AppendRowsRequest, spoil: Spoil
    ) -> types.AppendRowsResponse:
        stream = connection.stream
        meta = self._table(stream)
        if meta is None:
            return _refusal(stream.name, code_pb2.NOT_FOUND, "Table is gone", _StorageErrorCode.TABLE_NOT_FOUND)
        connection.adopt(meta)
        target = connection.target
        try:
            rows = connection.decode(request)
        except ExtraFieldsError as error:
            return _refusal(
                stream.name, code_pb2.INVALID_ARGUMENT, str(error), _StorageErrorCode.SCHEMA_MISMATCH_EXTRA_FIELDS
            )
        except (ValueError, pa.ArrowException) as error:
            return _refusal(stream.name, code_pb2.INVALID_ARGUMENT, str(error))
        partitioning = meta.time_partitioning
        bad = bad_rows(rows, target, partitioning.field if partitioning else None, self._ctx.clock.now())
        if spoil is Spoil.ROW_ERROR and rows.num_rows:
            bad = [BadRow(0, "injected: this row is bad")]
        if bad:
            return _row_errors(stream.name, bad)
        response = self._store(stream, rows, _offset(request))
        if connection.schema_is_news and "append_result" in response:
            response.updated_schema = stock._table_meta_to_proto_schema(meta)  # noqa: SLF001  the stock conversion
            connection.schema_is_news = False
        return response

    def _store(self, stream: WriteStream, rows: pa.Table, offset: int | None) -> types.AppendRowsResponse:
        with stream.lock:
            outcome = select_strategy(stream.stream_type).append(
                stream, rows, offset, max_buffered_rows=self._ctx.settings.write_api_max_stream_rows
            )
            if outcome.status is not AppendStatus.OK:
                code, detail = _APPEND_REFUSALS[outcome.status]
                return _refusal(stream.name, code, outcome.detail, detail)
            if outcome.committed_rows is not None and outcome.committed_rows.num_rows:
                self._flush_to_target(stream, outcome.committed_rows)
        result = types.AppendRowsResponse.AppendResult(offset=outcome.offset)
        return types.AppendRowsResponse(append_result=result, write_stream=stream.name)

    def _flush(self, request_bytes: bytes, context: grpc.ServicerContext) -> bytes:
        request = types.FlushRowsRequest.deserialize(request_bytes)
        name = request.write_stream
        stream = self._manager.get(name)
        if stream is None:
            _fail(
                context,
                grpc.StatusCode.NOT_FOUND,
                f"Requested entity was not found. Entity: {name}",
                _StorageErrorCode.STREAM_NOT_FOUND,
            )
        if stream.stream_type is not WriteStreamType.BUFFERED:
            _fail(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Only BUFFERED streams can be flushed. Entity: {name}",
                _StorageErrorCode.INVALID_STREAM_TYPE,
            )
        with stream.lock:
            offset = stream.next_offset - 1 if request.offset is None else int(request.offset)
            if stream.state is not WriteStreamState.OPEN:
                _fail(
                    context,
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"Stream is finalized. Entity: {name}",
                    _StorageErrorCode.STREAM_FINALIZED,
                )
            if offset < 0 or offset >= stream.next_offset:
                _fail(
                    context,
                    grpc.StatusCode.OUT_OF_RANGE,
                    f"Offset {offset} is beyond the end of the stream Entity: {name}",
                    _StorageErrorCode.OFFSET_OUT_OF_RANGE,
                )
            if offset < stream.flushed_rows:
                _fail(
                    context,
                    grpc.StatusCode.ALREADY_EXISTS,
                    f"Offset {offset} is already flushed. Entity: {name}",
                    _StorageErrorCode.OFFSET_ALREADY_EXISTS,
                )
            self._publish_up_to(stream, offset)
        answer: bytes = types.FlushRowsResponse.serialize(types.FlushRowsResponse(offset=offset))
        return answer

    def _publish_up_to(self, stream: WriteStream, offset: int) -> None:
        """Move the rows up to and including `offset` from the buffer into the table; the lock of the stream is held."""
        count = offset + 1 - stream.flushed_rows
        # Rows buffered before a column was added do not have it.
        buffered = pa.concat_tables(stream.buffer, promote_options="default")
        self._flush_to_target(stream, buffered.slice(0, count))
        # The buffer holds the unflushed rows only, so memory stays flat however long the stream lives.
        stream.buffer[:] = [buffered.slice(count)] if buffered.num_rows > count else []
        stream.flushed_rows = offset + 1

    def _spoiled(self, method: Method, context: grpc.ServicerContext, answer: Callable[[], bytes]) -> bytes:
        call = self._faults.count(method)
        if not self._delay(call, context):
            return b""
        _refuse(call, context)
        response = answer()
        if not self._hold_ack(call, context):
            return b""
        if call.spoil is Spoil.DROP_ACK:
            _fail(context, grpc.StatusCode.UNAVAILABLE, "injected: carried out, but the answer is lost")
        return response

    def _delay(self, call: Call, context: grpc.ServicerContext) -> bool:
        """Wait as the fault says; false when the client gave up meanwhile."""
        if call.delay_s:
            time.sleep(call.delay_s)
        while not self._faults.released(call, HANG_POLL_S):
            if not context.is_active():
                return False
        return True

    def _hold_ack(self, call: Call, context: grpc.ServicerContext) -> bool:
        """Let the answer wait as the fault says; false when the client gave up meanwhile."""
        self._faults.carried_out(call)
        while not self._faults.answered(call, HANG_POLL_S):
            if not context.is_active():
                return False
        return True

    def _table(self, stream: WriteStream) -> TableMeta | None:
        return self._ctx.catalog.get_table(stream.project_id, stream.dataset_id, stream.table_id)


class _Connection:
    """What one AppendRows connection remembers: its stream, the writer's schema and the table's."""

    def __init__(self, stream: WriteStream, meta: TableMeta) -> None:
        self.stream = stream
        self.target = _arrow_schema(meta)
        self.schema_is_news = False
        self._fields = meta.schema_.fields
        self._writer_schema: bytes | None = None
        self._proto_decoder: ProtoRowDecoder | None = None

    def adopt(self, meta: TableMeta) -> None:
        """Take over the table's present schema; a change stays news until an answer reported it."""
        if meta.schema_.fields != self._fields:
            self._fields = meta.schema_.fields
            self.target = _arrow_schema(meta)
            self.schema_is_news = True

    def decode(self, request: types.AppendRowsRequest) -> pa.Table:
        """The rows of a request, aligned with the table.

        Raises:
            ExtraFieldsError: The writer has columns that the table has not.
            ValueError: The rows cannot be read, or no request of this connection named their schema.
        """
        if "arrow_rows" in request:
            data = request.arrow_rows
            self._writer_schema = bytes(data.writer_schema.serialized_schema) or self._writer_schema
            if self._writer_schema is None:
                raise ValueError("Schema must be set in the first request of a connection")
            rows = deserialize_arrow_rows(self._writer_schema, bytes(data.rows.serialized_record_batch))
            return align(rows, self.target)
        if "proto_rows" in request:
            data = request.proto_rows
            if "writer_schema" in data:
                self._proto_decoder = ProtoRowDecoder(data.writer_schema.proto_descriptor)
            if self._proto_decoder is None:
                raise ValueError("Schema must be set in the first request of a connection")
            loose = pa.schema([field.with_nullable(True) for field in self.target])
            return proto_rows_to_arrow_table(self._proto_decoder, list(data.rows.serialized_rows), loose)
        return self.target.empty_table()


_APPEND_REFUSALS: dict[AppendStatus, tuple[int, int | None]] = {
    AppendStatus.ALREADY_EXISTS: (code_pb2.ALREADY_EXISTS, _StorageErrorCode.OFFSET_ALREADY_EXISTS),
    AppendStatus.OUT_OF_RANGE: (code_pb2.OUT_OF_RANGE, _StorageErrorCode.OFFSET_OUT_OF_RANGE),
    AppendStatus.STREAM_FINALIZED: (code_pb2.INVALID_ARGUMENT, _StorageErrorCode.STREAM_FINALIZED),
    AppendStatus.INVALID_ARGUMENT: (code_pb2.INVALID_ARGUMENT, None),
    AppendStatus.RESOURCE_EXHAUSTED: (code_pb2.RESOURCE_EXHAUSTED, None),
}


def _arrow_schema(meta: TableMeta) -> pa.Schema:
    """The table's columns for Arrow. Stock leaves out the fields of RECORD columns, so these cannot be written."""
    fields: Any = meta.schema_.fields
    raw: Any = _fields_raw_from_schema(fields)
    return _build_arrow_schema(raw)


def _offset(request: types.AppendRowsRequest) -> int | None:
    return None if request.offset is None else int(request.offset)


def _status(code: int, message: str, storage_code: int | None = None, entity: str = "") -> status_pb2.Status:
    """A status; with `storage_code` it carries a StorageError, from which clients tell apart what happened."""
    status = status_pb2.Status(code=code, message=message)
    if storage_code is not None:
        error = types.StorageError(code=storage_code, entity=entity, error_message=message)
        detail = any_pb2.Any()
        detail.Pack(types.StorageError.pb(error))
        status.details.append(detail)
    return status


def _refuse(call: Call, context: grpc.ServicerContext) -> None:
    """End a call that is not to be carried out."""
    if call.spoil is Spoil.UNAVAILABLE:
        _fail(context, grpc.StatusCode.UNAVAILABLE, "injected: unavailable")
    if call.spoil is Spoil.EXHAUSTED:
        _fail(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "injected: quota exceeded")


def _fail(
    context: grpc.ServicerContext, code: grpc.StatusCode, message: str, storage_code: int | None = None
) -> NoReturn:
    """End the call with a status."""
    context.abort_with_status(rpc_status.to_status(_status(code.value[0], message, storage_code)))
    raise AssertionError("abort_with_status raises")


def _refusal(stream_name: str, code: int, message: str, storage_code: int | None = None) -> types.AppendRowsResponse:
    return types.AppendRowsResponse(
        write_stream=stream_name, error=_status(code, message, storage_code, entity=stream_name)
    )


def _row_errors(stream_name: str, bad: list[BadRow]) -> types.AppendRowsResponse:
    errors = [
        types.RowError(index=row.index, code=types.RowError.RowErrorCode.FIELDS_ERROR, message=row.message)
        for row in bad
    ]
    response = _refusal(stream_name, code_pb2.INVALID_ARGUMENT, _ROW_ERRORS)
    response.row_errors = errors
    return response
