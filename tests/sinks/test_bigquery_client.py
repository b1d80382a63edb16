from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from google.api_core import exceptions as google_exceptions
from google.cloud.bigquery_storage_v1 import types

from datastreamx.config.structs import BigQueryConfig
from datastreamx.errors import CrashError, DatastreamXError, RetryableError
from sinks.bigquery.client import as_our_errors, rest_client, write_channel
from sinks.bigquery.grpc_transport import GrpcTransport
from sinks.bigquery.transport import AppendRequest, Reply, ReplyKind

from .bigquery_model import ROWS

# The library has no types for them.
exceptions: Any = google_exceptions

STREAM = "projects/p/datasets/d/tables/t/streams/s"


class Recorder(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers everything and keeps what it was asked: (method, routing header, request)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Any]] = []

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        routing = dict(details.invocation_metadata).get("x-goog-request-params", "")
        if method == "AppendRows":
            return grpc.stream_stream_rpc_method_handler(
                lambda requests, _: self._append(routing, requests),
                types.AppendRowsRequest.deserialize,
                types.AppendRowsResponse.serialize,
            )
        answers: dict[str, tuple[Any, Any]] = {
            "CreateWriteStream": (types.CreateWriteStreamRequest, types.WriteStream(name=STREAM)),
            "FlushRows": (types.FlushRowsRequest, types.FlushRowsResponse(offset=1)),
            "FinalizeWriteStream": (types.FinalizeWriteStreamRequest, types.FinalizeWriteStreamResponse()),
        }
        request, response = answers[method]

        def answer(asked: Any, _: Any) -> Any:
            self.calls.append((method, routing, asked))
            return response

        return grpc.unary_unary_rpc_method_handler(answer, request.deserialize, type(response).serialize)

    def _append(self, routing: str, requests: Iterator[Any]) -> Iterator[Any]:
        for request in requests:
            self.calls.append(("AppendRows", routing, request))
            yield types.AppendRowsResponse(append_result={"offset": request.offset})


@pytest.fixture
def recorder() -> Iterator[tuple[Recorder, GrpcTransport]]:
    handler = Recorder()
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    config = BigQueryConfig(project="p", dataset="d", grpc_endpoint=f"127.0.0.1:{port}")
    transport = GrpcTransport(write_channel(config), "projects/p/datasets/d")
    yield handler, transport
    transport.close()
    server.stop(None).wait()


def outcome(call: Callable[[], Reply | None]) -> Reply:
    while (reply := call()) is None:
        pass
    return reply


def test_every_call_names_its_resource_in_the_routing_header(recorder: tuple[Recorder, GrpcTransport]) -> None:
    handler, transport = recorder
    assert transport.create_stream("t") == STREAM
    connection = transport.connect(STREAM, ROWS.arrow_schema)
    connection.send(AppendRequest(0, b"rows"))
    assert connection.receive(10) == Reply(ReplyKind.OK, offset=0)
    connection.close()
    assert outcome(transport.flush(STREAM, 4).poll).kind is ReplyKind.OK
    assert [(method, routing) for method, routing, _ in handler.calls] == [
        ("CreateWriteStream", "parent=projects/p/datasets/d/tables/t"),
        ("AppendRows", f"write_stream={STREAM}"),
        ("FlushRows", f"write_stream={STREAM}"),
    ]
    assert handler.calls[0][2].write_stream.type_ is types.WriteStream.Type.BUFFERED
    assert handler.calls[2][2].offset == 4


def test_schema_and_stream_travel_once_per_connection_and_offsets_always(
    recorder: tuple[Recorder, GrpcTransport],
) -> None:
    handler, transport = recorder
    for _ in range(2):
        connection = transport.connect(STREAM, ROWS.arrow_schema)
        for offset in (0, 7):
            connection.send(AppendRequest(offset, b"rows"))
            assert connection.receive(10) == Reply(ReplyKind.OK, offset=offset)
        connection.close()
    requests = [request for _, _, request in handler.calls]
    assert [request.offset for request in requests] == [0, 7, 0, 7]
    assert [request.write_stream for request in requests] == [STREAM, "", STREAM, ""]
    schema = ROWS.arrow_schema.serialize().to_pybytes()
    sent = [request.arrow_rows.writer_schema.serialized_schema for request in requests]
    assert sent == [schema, b"", schema, b""]


def test_a_server_that_is_not_there_is_an_answer_and_not_an_exception() -> None:
    config = BigQueryConfig(project="p", grpc_endpoint="127.0.0.1:1")
    transport = GrpcTransport(write_channel(config), "projects/p/datasets/d")
    created = transport.create_stream("t")
    assert isinstance(created, Reply)
    assert created.kind is ReplyKind.RETRY
    assert outcome(transport.flush(STREAM, 0).poll).kind is ReplyKind.RETRY
    connection = transport.connect(STREAM, ROWS.arrow_schema)
    reply = connection.receive(10)
    assert reply is not None
    assert reply.kind is ReplyKind.RETRY
    assert reply.ends_connection
    connection.close()
    transport.close()


@pytest.mark.parametrize("build", [rest_client, write_channel])
def test_missing_credentials_say_what_to_do(
    build: Callable[[BigQueryConfig], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(CrashError, match="workload identity"):
        build(BigQueryConfig(project="p"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.ServiceUnavailable("x"), RetryableError),
        (exceptions.TooManyRequests("x"), RetryableError),
        (exceptions.PreconditionFailed("x"), RetryableError),
        (requests.exceptions.ConnectionError("x"), RetryableError),
        (requests.exceptions.Timeout("x"), RetryableError),
        (exceptions.Forbidden("x", errors=[{"reason": "rateLimitExceeded"}]), RetryableError),
        (exceptions.Forbidden("x", errors=[{"reason": "accessDenied"}]), CrashError),
        (exceptions.BadRequest("x"), CrashError),
    ],
)
def test_errors_of_the_library_become_ours(error: Exception, expected: type[DatastreamXError]) -> None:
    with pytest.raises(expected, match="could not look"), as_our_errors("look"):
        raise error
