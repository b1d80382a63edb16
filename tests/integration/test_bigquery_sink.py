"""The sink against the local BigQuery: real gRPC, real SQL, injected faults, killed processes."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from bytewax.recovery import init_db_dir
from google.cloud import bigquery

from datastreamx.config.structs import BigQueryConfig
from datastreamx.errors import CrashError, RetryableError, UnsafeTableError
from datastreamx.model.chunk import DeadLetter
from datastreamx.tables import BIDS, TABLES, VIEWING_SESSIONS, Table
from simulator.bigquery.faults import Fault, FaultPlan
from simulator.bigquery.handle import LocalBigQuery
from sinks.bigquery.breaker import Backoff
from sinks.bigquery.client import rest_client, write_channel
from sinks.bigquery.grpc_transport import GrpcTransport
from sinks.bigquery.loader import Environment, LoaderSettings, TableLoader
from sinks.bigquery.schema import ChangeKind, apply_tables, check_tables, plan_tables, wanted_table

from . import bigquery_crash_flow as crash_flow

pytestmark = pytest.mark.integration

EVEN = crash_flow.TABLES[0]
SETTINGS = LoaderSettings(linger_s=0.0, ack_timeout_s=0.5, backoff=Backoff(0.005, 0.05), doubtful_tries=4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBigQuery]:
    with LocalBigQuery(tmp_path_factory.mktemp("bigquery")) as running:
        yield running


@pytest.fixture
def config(server: LocalBigQuery, request: pytest.FixtureRequest) -> Iterator[BigQueryConfig]:
    dataset = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    yield BigQueryConfig(
        project="test", dataset=dataset, rest_endpoint=server.rest_url, grpc_endpoint=server.grpc_target
    )
    server.heal()


@pytest.fixture
def client(config: BigQueryConfig) -> Iterator[bigquery.Client]:
    opened = rest_client(config)
    yield opened
    opened.close()  # type: ignore[no-untyped-call]


class Letters:
    def __init__(self) -> None:
        self.accepted: list[DeadLetter] = []

    def write(self, letter: DeadLetter) -> None:
        self.accepted.append(letter)

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


class Loading:
    """A loader for one table over real gRPC."""

    def __init__(self, config: BigQueryConfig, table: Table = EVEN, timeout_s: float = 10.0) -> None:
        self.letters = Letters()
        self.on_wait: Callable[[], None] = lambda: None
        self._config = config
        self._table = table
        self._timeout_s = timeout_s
        self._open: list[TableLoader] = []

    def start(self, state: bytes | None = None) -> TableLoader:
        dataset = f"projects/{self._config.project}/datasets/{self._config.dataset}"
        env = Environment(
            transport=GrpcTransport(write_channel(self._config), dataset, self._timeout_s),
            dead_letters=lambda: self.letters,
            random=Random(1),
            on_wait=self._wait,
        )
        loader = TableLoader(self._table, f"{dataset}/tables/{self._table.name}", SETTINGS, env, state)
        self._open.append(loader)
        return loader

    def _wait(self) -> None:
        self.on_wait()

    def close(self) -> None:
        for loader in self._open:
            loader.close()


@pytest.fixture
def loading(config: BigQueryConfig, client: bigquery.Client) -> Iterator[Loading]:
    apply_tables(client, config, crash_flow.TABLES)
    opened = Loading(config)
    yield opened
    opened.close()


def load(loader: TableLoader, start: int, end: int, step: int = 20) -> None:
    for first in range(start, end, step):
        loader.write(crash_flow.rows_of(first, min(first + step, end))[0][1])


def counts(client: bigquery.Client, config: BigQueryConfig, table: Table = EVEN) -> tuple[int, int, int, int]:
    """Rows, distinct ids, smallest and largest id."""
    sql = (
        f"SELECT COUNT(*), COUNT(DISTINCT id), IFNULL(MIN(id), -1), IFNULL(MAX(id), -1) "  # noqa: S608  our own names
        f"FROM `{config.project}.{config.dataset}.{table.name}` WHERE event_time > TIMESTAMP '2020-01-01'"
    )
    (row,) = client.query_and_wait(sql)
    return row[0], row[1], row[2], row[3]


def test_apply_creates_every_table_and_is_idempotent(client: bigquery.Client, config: BigQueryConfig) -> None:
    changes = apply_tables(client, config)
    assert [change.kind for change in changes] == [ChangeKind.CREATE_DATASET] + [ChangeKind.CREATE_TABLE] * len(TABLES)
    assert apply_tables(client, config) == []
    check_tables(client, config)
    found = client.get_table(f"{config.project}.{config.dataset}.{BIDS.name}")
    assert found.time_partitioning.type_ == "DAY"
    assert found.time_partitioning.field == "decided_time"
    assert found.clustering_fields == ["aggregator", "outcome", "channel_id"]
    assert found.require_partition_filter is True
    assert [field.name for field in found.schema] == [column.name for column in BIDS.columns]
    assert {f.name for f in found.schema if f.mode == "REQUIRED"} == {c.name for c in BIDS.columns if c.required}
    assert found.schema[0].description == BIDS.columns[0].description


def test_start_is_refused_while_tables_are_missing(client: bigquery.Client, config: BigQueryConfig) -> None:
    with pytest.raises(UnsafeTableError, match="datastreamx apply") as refused:
        check_tables(client, config)
    assert str(refused.value).count("create table") == len(TABLES)


def test_a_new_nullable_column_is_added_and_can_be_loaded(client: bigquery.Client, config: BigQueryConfig) -> None:
    before = Table("rows", 1, "", EVEN.columns[:2], partition_by="event_time", cluster_by=("id",), key=("id",))
    after = Table("rows", 2, "", EVEN.columns, partition_by="event_time", cluster_by=("id",), key=("id",))
    apply_tables(client, config, [before])
    assert [str(c) for c in plan_tables(client, config, [after])] == [f"add columns test.{config.dataset}.rows: note"]
    apply_tables(client, config, [after])
    check_tables(client, config, [after])
    loading = Loading(config, after)
    loader = loading.start()
    load(loader, 0, 20)
    loader.snapshot()
    loader.tick()
    loading.close()
    assert counts(client, config, after) == (10, 10, 0, 18)


def test_an_unsafe_table_is_refused_with_every_problem_and_its_remedy(
    client: bigquery.Client, config: BigQueryConfig
) -> None:
    apply_tables(client, config, [BIDS])
    dataset = bigquery.DatasetReference(config.project, config.dataset)
    bare = bigquery.Table(
        dataset.table(VIEWING_SESSIONS.name),
        [
            bigquery.SchemaField("started_time", "TIMESTAMP", "REQUIRED"),
            bigquery.SchemaField("events", "STRING", "REQUIRED"),
            bigquery.SchemaField("last_channel_id", "STRING", "REQUIRED"),
            bigquery.SchemaField("surprise", "STRING", "REQUIRED"),
        ],
    )
    client.create_table(bare)
    loose = wanted_table(BIDS, dataset)
    loose.require_partition_filter = False
    client.delete_table(loose)
    client.create_table(loose)
    for refuse in (plan_tables, apply_tables, check_tables):
        with pytest.raises(UnsafeTableError) as refused:
            refuse(client, config, [VIEWING_SESSIONS, BIDS])
        message = str(refused.value)
        for problem in (
            "viewing_sessions: is not partitioned by day of started_time",
            "viewing_sessions: is not clustered by box_key; run `bq update --clustering_fields=box_key",
            "viewing_sessions: does not require a partition filter",
            "viewing_sessions: lacks the required column box_key",
            "viewing_sessions: has events as REQUIRED STRING instead of INT64",
            "viewing_sessions: requires last_channel_id, which may be missing",
            "viewing_sessions: requires the unknown column surprise",
            "bids: does not require a partition filter; run `bq update --require_partition_filter",
        ):
            assert problem in message
        assert "bids: is not" not in message


def test_an_unreachable_bigquery_is_told_apart_from_a_refusal(server: LocalBigQuery, config: BigQueryConfig) -> None:
    server.inject(FaultPlan.outage())
    client = rest_client(config)
    with pytest.raises(RetryableError):
        check_tables(client, config)
    client.close()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "fault",
    [Fault(drop_ack_every=3), Fault(unavailable_every=3), Fault(drop_ack_every=4, unavailable_every=3)],
    ids=["lost-acks", "cut-connections", "both"],
)
def test_rows_are_loaded_once_through_faults_of_appends_and_flushes(
    server: LocalBigQuery, client: bigquery.Client, config: BigQueryConfig, loading: Loading, fault: Fault
) -> None:
    loader = loading.start()
    server.inject(FaultPlan(append_rows=fault, flush_rows=Fault(drop_ack_every=2)))
    for epoch in range(10):
        load(loader, epoch * 200, (epoch + 1) * 200)
        loader.snapshot()
        loader.tick()
    assert server.heal().spoiled["append_rows"] > 10
    loading.start(loader.snapshot()).close()
    assert counts(client, config) == (1000, 1000, 0, 1998)


def test_refused_rows_become_dead_letters_and_all_others_are_loaded(
    server: LocalBigQuery, client: bigquery.Client, config: BigQueryConfig, loading: Loading
) -> None:
    loader = loading.start()
    server.inject(FaultPlan(append_rows=Fault(row_error_every=5)))
    load(loader, 0, 1000)
    loader.snapshot()
    loader.tick()
    loader.close()
    refused = len(loading.letters.accepted)
    assert refused > 0
    rows, distinct, _, _ = counts(client, config)
    assert rows == distinct == 500 - refused


def test_a_server_that_hangs_is_left_and_tried_again(
    server: LocalBigQuery, client: bigquery.Client, config: BigQueryConfig, loading: Loading
) -> None:
    loader = loading.start()
    load(loader, 0, 20)
    loader.snapshot()
    server.inject(FaultPlan(append_rows=Fault(hang=True)))
    hung_calls = 0

    def heal_after_a_second_try() -> None:
        nonlocal hung_calls
        hung_calls = server.faults().calls["append_rows"]
        if hung_calls == 2:
            server.heal()

    loading.on_wait = heal_after_a_second_try
    load(loader, 20, 40)
    loader.snapshot()
    loader.tick()
    loader.close()
    assert counts(client, config) == (20, 20, 0, 38)


def test_an_outage_of_everything_is_waited_out(
    server: LocalBigQuery, client: bigquery.Client, config: BigQueryConfig, loading: Loading
) -> None:
    loader = loading.start()
    server.inject(FaultPlan.outage())
    waits = 0

    def heal_later() -> None:
        nonlocal waits
        waits += 1
        if waits == 20:
            server.heal()

    loading.on_wait = heal_later
    load(loader, 0, 40)
    loader.tick()
    loader.snapshot()
    loader.tick()
    loader.close()
    assert waits >= 20
    assert counts(client, config) == (20, 20, 0, 38)


def test_a_bigquery_that_restarts_is_reached_again(tmp_path: Path) -> None:
    """Streams of the local BigQuery die with it, so only what is visible may be left behind."""
    with LocalBigQuery(tmp_path, data_dir=tmp_path / "data") as server:
        config = BigQueryConfig(project="test", rest_endpoint=server.rest_url, grpc_endpoint=server.grpc_target)
        client = rest_client(config)
        apply_tables(client, config, crash_flow.TABLES)
        loading = Loading(config)
        loader = loading.start()
        load(loader, 0, 40)
        loader.snapshot()
        loader.tick()
        while loader._pending_flushes:
            loader._poll_flushes()
        server.kill()
        load(loader, 40, 80)
        server.start()
        loader.snapshot()
        loader.tick()
        loader.close()
        assert counts(client, config) == (40, 40, 0, 78)
        client.close()  # type: ignore[no-untyped-call]


def test_streams_that_expired_before_their_flush_stop_the_resume(server: LocalBigQuery, loading: Loading) -> None:
    loader = loading.start()
    load(loader, 0, 20)
    state = loader.snapshot()
    server.expire_write_streams()
    with pytest.raises(CrashError, match="load the range again from Kafka"):
        loading.start(state).close()


def test_a_table_that_does_not_exist_stops_the_loader_after_some_tries(
    client: bigquery.Client, config: BigQueryConfig
) -> None:
    client.create_dataset(config.dataset)
    loading = Loading(config)
    loader = loading.start()
    load(loader, 0, 20)
    with pytest.raises(CrashError, match="4 times in a row: NOT_FOUND"):
        loader.snapshot()
    loading.close()


@pytest.mark.parametrize("is_mended", [True, False], ids=["and made anew", "for good"])
def test_a_table_that_is_dropped_while_it_is_loaded_is_waited_for_and_nothing_is_set_aside(
    client: bigquery.Client, config: BigQueryConfig, loading: Loading, *, is_mended: bool
) -> None:
    loader = loading.start()
    load(loader, 0, 20)
    loader.snapshot()
    loader.tick()
    while loader._pending_flushes:
        loader._poll_flushes()
    client.delete_table(f"{config.project}.{config.dataset}.{EVEN.name}")
    load(loader, 20, 40)
    if is_mended:
        waits = itertools.count()

        def mend() -> None:
            if next(waits) == 2:
                apply_tables(client, config, crash_flow.TABLES)

        loading.on_wait = mend
        loader.snapshot()
        loader.tick()
        loader.close()
        rows, *_ = counts(client, config)
        assert rows == 20 // 2
    else:
        with pytest.raises(CrashError, match=r"4 times in a row: .*`datastreamx apply`.*the rows stay in Kafka"):
            loader.snapshot()
    assert loading.letters.accepted == []


@pytest.mark.parametrize("scale", [(1, 25), (2, 8)], ids=["1-worker-25-kills", "2-workers-8-kills"])
def test_no_row_is_lost_or_doubled_through_killed_processes(
    server: LocalBigQuery, client: bigquery.Client, config: BigQueryConfig, tmp_path: Path, scale: tuple[int, int]
) -> None:
    """Every run ends by SIGKILL: at a seeded protocol event, e.g. right after a flush, or at a seeded time."""
    workers, kills = scale
    # More than the runs that die can read.
    rows_per_partition = 2_400 * kills
    server.inject(FaultPlan(append_rows=Fault(drop_ack_every=23), flush_rows=Fault(drop_ack_every=5)))
    apply_tables(client, config, crash_flow.TABLES)
    init_db_dir(tmp_path, 1)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([crash_flow.__name__])

    def run(seed: int | None) -> int | None:
        settings = crash_flow.Run(config, str(tmp_path), rows_per_partition, seed, workers)
        process = processes.Process(target=crash_flow.run, args=(settings,))
        process.start()
        process.join()
        return process.exitcode

    killed = [seed for seed in range(kills) if run(seed) == -signal.SIGKILL]
    # The first run to the end leaves its last epoch to the resume of the second.
    assert [run(None), run(None)] == [0, 0]
    total = rows_per_partition * crash_flow.SOURCE_PARTITIONS
    expected = [(total // 2, total // 2, odd, total - 2 + odd) for odd in (0, 1)]
    assert [counts(client, config, table) for table in crash_flow.TABLES] == expected, f"killed by seeds {killed}"
    assert len(killed) == kills
