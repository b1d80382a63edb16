# ruff: noqa: S608  queries name the tests' own tables
"""The local BigQuery through Google's own clients, as the sink and the users of the demo will meet it."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import socket
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core import exceptions as google_errors
from google.api_core.retry import Retry
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery.schema import SchemaField as Field
from google.cloud.bigquery.table import Table
from google.cloud.bigquery_storage_v1 import BigQueryWriteClient, types
from google.cloud.bigquery_storage_v1.services.big_query_write.transports import BigQueryWriteGrpcTransport

from datastreamx.errors import CrashError
from simulator.bigquery import Fault, FaultPlan, LocalBigQuery
from simulator.bigquery.compat import UnsupportedEmulatorError, check
from simulator.processes import ChildError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.integration

StorageErrorCode = types.StorageError.StorageErrorCode

# `None` works as well, but is not in the clients' annotations.
NO_RETRY = Retry(predicate=lambda _error: False)

NOW = dt.datetime.now(dt.UTC).replace(microsecond=123000)
SCHEMA = [
    Field("event_time", "TIMESTAMP", "REQUIRED"),
    Field("box_key", "STRING"),
    Field("ordinal", "INT64", "REQUIRED"),
    Field("won", "BOOL"),
    Field("price", "FLOAT64"),
    Field("context", "JSON"),
    Field("bids", "RECORD", "REPEATED", fields=[Field("seat", "STRING"), Field("price", "FLOAT64")]),
]
ARROW = pa.schema(
    [
        ("event_time", pa.timestamp("us", "UTC")),
        ("box_key", pa.string()),
        ("ordinal", pa.int64()),
        ("won", pa.bool_()),
        ("price", pa.float64()),
        ("context", pa.string()),
        ("bids", pa.list_(pa.struct([("seat", pa.string()), ("price", pa.float64())]))),
    ]
)


def rows(count: int, first: int = 0, **changed: Any) -> pa.RecordBatch:
    columns: dict[str, Any] = {
        "event_time": [NOW + dt.timedelta(seconds=first + n) for n in range(count)],
        "box_key": [f"box{(first + n) % 3}" for n in range(count)],
        "ordinal": list(range(first, first + count)),
        "won": [(first + n) % 2 == 0 for n in range(count)],
        "price": [(first + n) / 2 for n in range(count)],
        "context": [f'{{"channel": {{"id": "ch{first + n}"}}}}' for n in range(count)],
        "bids": [[{"seat": "a", "price": 0.5}, {"seat": "b", "price": 0.25}] for _ in range(count)],
    }
    return pa.record_batch(columns | changed, schema=ARROW)


def append(
    stream: str, batch: pa.RecordBatch, offset: int | None = None, *, schema: bool = True
) -> types.AppendRowsRequest:
    request = types.AppendRowsRequest(write_stream=stream, offset=offset)
    data = types.AppendRowsRequest.ArrowData()
    if schema:
        data.writer_schema = types.ArrowSchema(serialized_schema=batch.schema.serialize().to_pybytes())
    data.rows = types.ArrowRecordBatch(serialized_record_batch=batch.serialize().to_pybytes())
    request.arrow_rows = data
    return request


def storage_error(response: types.AppendRowsResponse) -> Any:
    (detail,) = response.error.details
    error = types.StorageError.pb(types.StorageError())
    assert detail.Unpack(error)
    return error.code


class Endpoints(Protocol):
    @property
    def rest_url(self) -> str: ...

    @property
    def grpc_target(self) -> str: ...


@dataclass(frozen=True)
class Clients:
    bigquery: bigquery.Client
    write: BigQueryWriteClient

    def table(self, schema: Sequence[Field] = SCHEMA) -> Table:
        table = Table(f"demo.facts.t{uuid.uuid4().hex[:8]}", schema=schema)
        table.time_partitioning = bigquery.TimePartitioning(field="event_time")
        table.require_partition_filter = True
        table.clustering_fields = ["box_key"]
        return self.bigquery.create_table(table)

    def stream(self, table: Table) -> str:
        parent = f"projects/{table.project}/datasets/{table.dataset_id}/tables/{table.table_id}"
        wanted = types.WriteStream(type_=types.WriteStream.Type.BUFFERED)
        name: str = self.write.create_write_stream(parent=parent, write_stream=wanted, retry=None).name
        return name

    def send(self, *requests: types.AppendRowsRequest) -> list[types.AppendRowsResponse]:
        return list(self.write.append_rows(iter(requests), retry=None))

    def flush(self, stream: str, offset: int) -> int:
        request = types.FlushRowsRequest(write_stream=stream, offset=offset)
        flushed: int = self.write.flush_rows(request, retry=None).offset
        return flushed

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in self.bigquery.query(sql, job_retry=None).result()]

    def ordinals(self, table: Table) -> list[int]:
        return [row[0] for row in self.query(f"SELECT ordinal FROM `{table}` ORDER BY ordinal")]


@contextlib.contextmanager
def connect(server: Endpoints) -> Iterator[Clients]:
    rest = bigquery.Client(
        project="demo",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": server.rest_url},
    )
    with grpc.insecure_channel(server.grpc_target) as channel:
        transport = BigQueryWriteGrpcTransport(channel=channel)
        yield Clients(rest, BigQueryWriteClient(transport=transport))  # type: ignore[no-untyped-call]
    rest.close()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBigQuery]:
    with LocalBigQuery(tmp_path_factory.mktemp("bigquery")) as running:
        yield running


@pytest.fixture(scope="module")
def connected(server: LocalBigQuery) -> Iterator[Clients]:
    with connect(server) as clients:
        clients.bigquery.create_dataset("facts")
        yield clients


@pytest.fixture
def clients(server: LocalBigQuery, connected: Clients) -> Iterator[Clients]:
    yield connected
    server.heal()


# Write API


def test_flush_shows_rows_up_to_and_including_its_offset(clients: Clients) -> None:
    table = clients.table()
    stream = clients.stream(table)
    first, second = clients.send(append(stream, rows(10), 0), append(stream, rows(5, first=10), 10, schema=False))
    assert (first.append_result.offset, second.append_result.offset) == (0, 10)
    assert clients.ordinals(table) == []

    assert clients.flush(stream, 11) == 11
    assert clients.ordinals(table) == list(range(12))
    clients.flush(stream, 14)
    assert clients.ordinals(table) == list(range(15))


def test_repeated_flush_already_exists_and_adds_nothing(clients: Clients) -> None:
    table = clients.table()
    stream = clients.stream(table)
    clients.send(append(stream, rows(4), 0))
    clients.flush(stream, 3)
    for repeated in (3, 1):
        with pytest.raises(google_errors.AlreadyExists):
            clients.flush(stream, repeated)
    assert clients.ordinals(table) == [0, 1, 2, 3]


def test_flush_beyond_the_end_is_out_of_range(clients: Clients) -> None:
    stream = clients.stream(clients.table())
    clients.send(append(stream, rows(4), 0))
    with pytest.raises(google_errors.OutOfRange):
        clients.flush(stream, 4)


def test_finalized_stream_refuses_appends_and_flushes(clients: Clients) -> None:
    stream = clients.stream(clients.table())
    clients.send(append(stream, rows(4), 0))
    assert clients.write.finalize_write_stream(name=stream, retry=None).row_count == 4
    (refused,) = clients.send(append(stream, rows(1, first=4), 4))
    assert storage_error(refused) == StorageErrorCode.STREAM_FINALIZED
    with pytest.raises(google_errors.InvalidArgument):
        clients.flush(stream, 3)


def test_repeated_and_skipped_append_offsets_are_told_apart(clients: Clients) -> None:
    table = clients.table()
    stream = clients.stream(table)
    _, repeated, skipped, going_on = clients.send(
        append(stream, rows(4), 0),
        append(stream, rows(4), 0, schema=False),
        append(stream, rows(1), 9, schema=False),
        append(stream, rows(1, first=4), 4, schema=False),
    )
    assert storage_error(repeated) == StorageErrorCode.OFFSET_ALREADY_EXISTS
    assert storage_error(skipped) == StorageErrorCode.OFFSET_OUT_OF_RANGE
    assert going_on.append_result.offset == 4
    clients.flush(stream, 4)
    assert clients.ordinals(table) == [0, 1, 2, 3, 4]


def test_bad_rows_are_named_and_nothing_of_their_request_is_written(clients: Clients) -> None:
    table = clients.table()
    stream = clients.stream(table)
    bad = rows(
        5,
        ordinal=[0, None, 2, 3, 4],
        context=["{}", "{}", "{oops", "{}", None],
        event_time=[NOW, NOW, NOW, NOW + dt.timedelta(days=400), NOW],
    )
    refused, accepted = clients.send(append(stream, bad, 0), append(stream, rows(2), 0, schema=False))
    assert refused.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert [error.index for error in refused.row_errors] == [1, 2, 3]
    assert {error.code for error in refused.row_errors} == {types.RowError.RowErrorCode.FIELDS_ERROR}
    assert ["ordinal" in refused.row_errors[0].message, "context" in refused.row_errors[1].message] == [True, True]
    assert accepted.append_result.offset == 0
    clients.flush(stream, 1)
    assert clients.ordinals(table) == [0, 1]


def test_unknown_column_is_a_schema_mismatch(clients: Clients) -> None:
    stream = clients.stream(clients.table())
    extra = rows(2).append_column("surprise", pa.array([1, 2]))
    (refused,) = clients.send(append(stream, extra, 0))
    assert storage_error(refused) == StorageErrorCode.SCHEMA_MISMATCH_EXTRA_FIELDS
    assert "surprise" in refused.error.message


def test_missing_nullable_column_becomes_null(clients: Clients) -> None:
    table = clients.table()
    stream = clients.stream(table)
    clients.send(append(stream, rows(1).drop_columns(["price"]), 0))
    clients.flush(stream, 0)
    assert clients.query(f"SELECT price, box_key FROM `{table}`") == [(None, "box0")]


def test_request_above_ten_megabytes_is_refused_and_nine_pass(clients: Clients) -> None:
    table = clients.table([Field("event_time", "TIMESTAMP", "REQUIRED"), Field("box_key", "STRING")])
    stream = clients.stream(table)

    def batch(bytes_: int) -> pa.RecordBatch:
        return pa.record_batch({"event_time": pa.array([NOW], pa.timestamp("us", "UTC")), "box_key": ["x" * bytes_]})

    refused, accepted = clients.send(append(stream, batch(10_500_000), 0), append(stream, batch(9_000_000), 0))
    assert "too large" in refused.error.message
    assert accepted.append_result.offset == 0


def test_unknown_stream_is_not_found(server: LocalBigQuery, clients: Clients) -> None:
    table = clients.table()
    gone = clients.stream(table)
    server.expire_write_streams()
    with pytest.raises(google_errors.NotFound):
        clients.send(append(gone, rows(1), 0))
    with pytest.raises(google_errors.NotFound):
        clients.flush(gone, 0)


def test_queries_while_appending_neither_fail_nor_see_unflushed_rows(clients: Clients) -> None:
    table = clients.table()
    writers, batches, size = 4, 12, 500
    problems: list[BaseException] = []
    finished = threading.Event()

    def write(writer: int) -> None:
        try:
            stream = clients.stream(table)
            for number in range(batches):
                (answer,) = clients.send(append(stream, rows(size, first=(writer * batches + number) * size)))
                assert not answer.error.code
                clients.flush(stream, (number + 1) * size - 1)
        except BaseException as error:  # noqa: BLE001  judged in the main thread
            problems.append(error)

    def read() -> None:
        try:
            while not finished.is_set():
                counted, distinct = clients.query(f"SELECT COUNT(*), COUNT(DISTINCT ordinal) FROM `{table}`")[0]
                assert counted == distinct
                assert counted % size == 0
        except BaseException as error:  # noqa: BLE001  judged in the main thread
            problems.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads + readers:
        thread.start()
    for thread in threads:
        thread.join()
    finished.set()
    for thread in readers:
        thread.join()
    assert problems == []
    assert clients.ordinals(table) == list(range(writers * batches * size))


# Faults


def test_dropped_append_ack_leaves_the_rows_written(server: LocalBigQuery, clients: Clients) -> None:
    table = clients.table()
    stream = clients.stream(table)
    server.inject(FaultPlan(append_rows=Fault(drop_ack_every=2)))
    clients.send(append(stream, rows(3), 0))
    with pytest.raises(google_errors.ServiceUnavailable):
        clients.send(append(stream, rows(3, first=3), 3))
    report = server.heal()
    (repeated,) = clients.send(append(stream, rows(3, first=3), 3))
    assert storage_error(repeated) == StorageErrorCode.OFFSET_ALREADY_EXISTS
    clients.flush(stream, 5)
    assert clients.ordinals(table) == list(range(6))
    assert (report.calls["append_rows"], report.spoiled["append_rows"]) == (2, 1)


def test_unavailable_append_leaves_nothing_written(server: LocalBigQuery, clients: Clients) -> None:
    stream = clients.stream(clients.table())
    server.inject(FaultPlan(append_rows=Fault(unavailable_every=1)))
    with pytest.raises(google_errors.ServiceUnavailable):
        clients.send(append(stream, rows(3), 0))
    server.heal()
    (answer,) = clients.send(append(stream, rows(3), 0))
    assert answer.append_result.offset == 0


def test_dropped_flush_ack_leaves_the_rows_visible(server: LocalBigQuery, clients: Clients) -> None:
    table = clients.table()
    stream = clients.stream(table)
    clients.send(append(stream, rows(3), 0))
    server.inject(FaultPlan(flush_rows=Fault(drop_ack_every=1)))
    with pytest.raises(google_errors.ServiceUnavailable):
        clients.flush(stream, 2)
    assert clients.ordinals(table) == [0, 1, 2]


def test_injected_row_error_names_the_first_row(server: LocalBigQuery, clients: Clients) -> None:
    stream = clients.stream(clients.table())
    server.inject(FaultPlan(append_rows=Fault(row_error_every=1)))
    (refused,) = clients.send(append(stream, rows(3), 0))
    assert [error.index for error in refused.row_errors] == [0]


def test_hanging_append_goes_on_when_healed(server: LocalBigQuery, clients: Clients) -> None:
    stream = clients.stream(clients.table())
    server.inject(FaultPlan(append_rows=Fault(hang=True)))
    answers: list[types.AppendRowsResponse] = []
    hanging = threading.Thread(target=lambda: answers.extend(clients.send(append(stream, rows(1), 0))))
    hanging.start()
    while server.faults().spoiled["append_rows"] == 0:
        pass
    assert answers == []
    server.heal()
    hanging.join()
    assert [answer.append_result.offset for answer in answers] == [0]


def test_held_flush_is_carried_out_long_before_its_answer(server: LocalBigQuery, clients: Clients) -> None:
    table = clients.table()
    stream = clients.stream(table)
    clients.send(append(stream, rows(3), 0))
    server.inject(FaultPlan(flush_rows=Fault(hold_ack=True)))
    held = threading.Thread(target=clients.flush, args=(stream, 2))
    held.start()
    while server.faults().held["flush_rows"] == 0:
        assert held.is_alive()
    assert clients.ordinals(table) == [0, 1, 2]
    server.heal()
    held.join()


def test_held_answers_of_appends_and_queries_come_when_healed(server: LocalBigQuery, clients: Clients) -> None:
    table = clients.table()
    stream = clients.stream(table)
    server.inject(FaultPlan(append_rows=Fault(hold_ack=True), rest=Fault(hold_ack=True)))
    answers: list[object] = []
    calls = [
        threading.Thread(target=lambda: answers.extend(clients.send(append(stream, rows(1), 0)))),
        threading.Thread(target=lambda: answers.append(clients.bigquery.get_table(table, retry=NO_RETRY))),
    ]
    for call in calls:
        call.start()
    while server.faults().held["append_rows"] + server.faults().held["rest"] < len(calls):
        assert all(call.is_alive() for call in calls)
    assert answers == []
    server.heal()
    for call in calls:
        call.join()
    assert len(answers) == len(calls)


def test_exhausted_quota_refuses_and_leaves_nothing_written(server: LocalBigQuery, clients: Clients) -> None:
    table = clients.table()
    stream = clients.stream(table)
    exhausted = Fault(exhausted_every=1)
    server.inject(FaultPlan(append_rows=exhausted, flush_rows=exhausted, rest=exhausted))
    for call in (
        lambda: clients.send(append(stream, rows(3), 0)),
        lambda: clients.flush(stream, 2),
        lambda: clients.bigquery.get_table(table, retry=NO_RETRY),
    ):
        with pytest.raises((google_errors.ResourceExhausted, google_errors.TooManyRequests)):
            call()
    server.heal()
    (answer,) = clients.send(append(stream, rows(3), 0))
    assert answer.append_result.offset == 0


def test_hanging_flush_ends_when_the_client_gives_up(server: LocalBigQuery, clients: Clients) -> None:
    stream = clients.stream(clients.table())
    server.inject(FaultPlan(flush_rows=Fault(hang=True)))
    with pytest.raises(google_errors.DeadlineExceeded):
        clients.write.flush_rows(types.FlushRowsRequest(write_stream=stream, offset=0), retry=None, timeout=0.2)


def test_outage_spoils_rest_and_grpc_but_not_the_switch(server: LocalBigQuery, clients: Clients) -> None:
    table = clients.table()
    server.inject(FaultPlan.outage())
    with pytest.raises(google_errors.ServiceUnavailable):
        clients.bigquery.get_table(table, retry=NO_RETRY)
    with pytest.raises(google_errors.ServiceUnavailable):
        clients.stream(table)
    server.heal()
    assert clients.bigquery.get_table(table, retry=NO_RETRY).table_id == table.table_id


def test_bad_fault_plan_is_refused(server: LocalBigQuery) -> None:
    with pytest.raises(CrashError, match="bad fault plan"):
        server._control("PUT", "/simulator/v1/faults", b'{"append_rows": {"unavailable_evry": 3}}')


# Tables


def test_partitioning_filter_and_clustering_survive(clients: Clients) -> None:
    found = clients.bigquery.get_table(clients.table())
    assert found.require_partition_filter is True
    assert found.time_partitioning.field == "event_time"
    assert found.clustering_fields == ["box_key"]


def test_filter_stays_when_something_else_is_patched(clients: Clients) -> None:
    table = clients.table()
    table.description = "facts"
    clients.bigquery.update_table(table, ["description"])
    found = clients.bigquery.get_table(table)
    assert (found.description, found.require_partition_filter) == ("facts", True)


def test_unpartitioned_table_cannot_require_a_filter(clients: Clients) -> None:
    table = Table(f"demo.facts.t{uuid.uuid4().hex[:8]}", schema=SCHEMA)
    table.require_partition_filter = True
    with pytest.raises(google_errors.BadRequest):
        clients.bigquery.create_table(table)


def test_added_column_can_be_queried_and_appended_on_an_open_connection(clients: Clients) -> None:
    table = clients.table()
    stream = clients.stream(table)
    added = threading.Event()

    def requests() -> Iterator[types.AppendRowsRequest]:
        yield append(stream, rows(1), 0)
        assert added.wait(30)
        wider = rows(1, first=1).append_column("region", pa.array(["north"]))
        yield append(stream, wider, 1)
        yield append(stream, wider, 2, schema=False)

    answers = iter(clients.write.append_rows(requests(), retry=None))
    assert next(answers).append_result.offset == 0
    table.schema = [*table.schema, Field("region", "STRING")]
    clients.bigquery.update_table(table, ["schema"])
    added.set()
    second, third = answers
    assert (second.append_result.offset, third.append_result.offset) == (1, 2)
    assert second.updated_schema.fields[-1].name == "region"
    assert not third.updated_schema.fields
    clients.flush(stream, 2)
    assert clients.query(f"SELECT region FROM `{table}` ORDER BY ordinal") == [(None,), ("north",), ("north",)]
    assert [field.name for field in clients.bigquery.get_table(table).schema][-1] == "region"


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: [*fields, Field("extra", "STRING", "REQUIRED")],
        lambda fields: fields[:-1],
        lambda fields: [*fields[:1], Field("box_key", "INT64"), *fields[2:]],
    ],
    ids=["required column", "dropped column", "changed type"],
)
def test_incompatible_schema_change_is_refused(clients: Clients, change: Any) -> None:
    table = clients.table()
    before = table.schema
    table.schema = change(before)
    with pytest.raises(google_errors.BadRequest, match="Provided Schema does not match"):
        clients.bigquery.update_table(table, ["schema"])
    assert clients.bigquery.get_table(table).schema == before


def test_stale_etag_is_refused(clients: Clients) -> None:
    table = clients.table()
    stale = clients.bigquery.get_table(table)
    table.description = "first"
    clients.bigquery.update_table(table, ["description"])
    stale.description = "second"
    with pytest.raises(google_errors.PreconditionFailed):
        clients.bigquery.update_table(stale, ["description"])


# Jobs


def test_load_job_goes_by_column_name_and_its_id_works_once(clients: Clients) -> None:
    table = clients.table()
    source = io.BytesIO()
    pq.write_table(pa.Table.from_batches([rows(3).select(["event_time", "ordinal", "box_key"])]), source)
    config = bigquery.LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_APPEND")
    job_id = f"load-{uuid.uuid4().hex}"
    for attempt in range(2):
        source.seek(0)
        if attempt == 0:
            job = clients.bigquery.load_table_from_file(source, table, job_id=job_id, job_config=config)
            assert job.result().job_id == job_id
        else:
            with pytest.raises(google_errors.Conflict):
                clients.bigquery.load_table_from_file(source, table, job_id=job_id, job_config=config)
    assert clients.query(f"SELECT ordinal, box_key, won FROM `{table}` ORDER BY 1") == [
        (0, "box0", None),
        (1, "box1", None),
        (2, "box2", None),
    ]


def test_used_query_job_id_is_refused(clients: Clients) -> None:
    job_id = f"query-{uuid.uuid4().hex}"
    clients.bigquery.query("SELECT 1", job_id=job_id, job_retry=None).result()
    with pytest.raises(google_errors.Conflict):
        clients.bigquery.query("SELECT 1", job_id=job_id, job_retry=None, retry=NO_RETRY).result()


# Queries


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("COUNTIF(won)", 5),
        ("COUNT(DISTINCT box_key)", 3),
        ("APPROX_QUANTILES(ordinal, 2)[OFFSET(1)]", 4),
        ("APPROX_QUANTILES(ordinal, 2)[SAFE_OFFSET(2)]", 9),
        ("300 * DIV(MAX(ordinal) * 100, 300)", 900),
        ("SAFE_DIVIDE(SUM(price), 0)", None),
        ("SAFE_DIVIDE(SUM(price), COUNT(*))", 2.25),
        ("TIMESTAMP_DIFF(MAX(event_time), MIN(event_time), MILLISECOND)", 9000),
        ("MAX(JSON_VALUE(context, '$.channel.id'))", "ch9"),
        ("SUM((SELECT SUM(bid.price) FROM UNNEST(bids) AS bid))", 7.5),
        ("MIN(TIMESTAMP_TRUNC(event_time, DAY))", NOW.replace(hour=0, minute=0, second=0, microsecond=0)),
        ("MAX_BY(box_key, ordinal)", "box0"),
    ],
)
def test_dashboard_functions_answer_as_bigquery_does(clients: Clients, expression: str, expected: object) -> None:
    assert clients.query(f"SELECT {expression} FROM `{_ten_rows(clients)}`") == [(expected,)]


def test_every_column_type_comes_back_as_it_was_sent(clients: Clients) -> None:
    query = f"SELECT * FROM `{_ten_rows(clients)}` WHERE event_time >= TIMESTAMP '2020-01-01' AND ordinal = 3"
    assert clients.query(query) == [
        (
            NOW + dt.timedelta(seconds=3),
            "box0",
            3,
            False,
            1.5,
            {"channel": {"id": "ch3"}},
            [{"seat": "a", "price": 0.5}, {"seat": "b", "price": 0.25}],
        )
    ]


def test_common_table_expression_and_unnest(clients: Clients) -> None:
    query = (
        f"WITH offered AS (SELECT bid.seat, bid.price FROM `{_ten_rows(clients)}`, UNNEST(bids) AS bid) "
        "SELECT seat, SUM(price) FROM offered GROUP BY seat ORDER BY seat"
    )
    assert clients.query(query) == [("a", 5.0), ("b", 2.5)]


_TEN_ROWS: dict[int, str] = {}


def _ten_rows(clients: Clients) -> str:
    """One table with `rows(10)`, made at first use."""
    if id(clients) not in _TEN_ROWS:
        table = clients.table()
        stream = clients.stream(table)
        clients.send(append(stream, rows(10), 0))
        clients.flush(stream, 9)
        _TEN_ROWS[id(clients)] = str(table)
    return _TEN_ROWS[id(clients)]


# Process


def test_tables_survive_a_kill_when_there_is_a_data_dir(tmp_path: Path) -> None:
    with LocalBigQuery(tmp_path / "log", data_dir=tmp_path / "data") as persistent:
        with connect(persistent) as clients:
            clients.bigquery.create_dataset("facts")
            table = clients.table()
            stream = clients.stream(table)
            clients.send(append(stream, rows(4), 0))
            clients.flush(stream, 2)
            table.schema = [*table.schema, Field("region", "STRING")]
            clients.bigquery.update_table(table, ["schema"])
        before = (persistent.rest_url, persistent.grpc_target)
        persistent.kill()
        persistent.start()
        assert (persistent.rest_url, persistent.grpc_target) == before
        with connect(persistent) as clients:
            assert clients.query(f"SELECT ordinal, region FROM `{table}` ORDER BY 1") == [
                (0, None),
                (1, None),
                (2, None),
            ]
            assert clients.bigquery.get_table(table).require_partition_filter is True
            with pytest.raises(google_errors.NotFound):
                clients.flush(stream, 3)
        persistent.stop()
        assert persistent.poll() == 0


def test_taken_port_is_reported(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ChildError, match=f"cannot serve REST on port {port}"):
            LocalBigQuery(tmp_path, rest_port=port).start()


def test_server_says_nothing_but_ready(server: LocalBigQuery, clients: Clients) -> None:
    clients.query("SELECT EXTRACT(HOUR FROM CURRENT_TIMESTAMP())")
    assert server._child is not None
    (line,) = server._child.output().splitlines()
    assert line.startswith("READY ")


def test_other_emulator_version_is_refused() -> None:
    with pytest.raises(UnsupportedEmulatorError, match=r"install bqemulator==1\.4\.0"):
        check("1.4.1")


def test_server_starts_and_stops_twice_inside_this_process() -> None:
    from simulator.bigquery.server import LocalServer  # noqa: PLC0415  costs two seconds, and only this test needs it

    for _ in range(2):
        with LocalServer() as inside, connect(inside) as clients:
            clients.bigquery.create_dataset("facts")
            table = clients.table()
            stream = clients.stream(table)
            clients.send(append(stream, rows(2), 0))
            inside.faults.replace(FaultPlan(flush_rows=Fault(drop_ack_every=1)))
            with pytest.raises(google_errors.ServiceUnavailable):
                clients.flush(stream, 1)
            assert clients.ordinals(table) == [0, 1]
