"""The commands against a real broker and the local BigQuery, without any flow running."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.cloud import bigquery

from datastreamx import topics
from datastreamx.cli.output import Exit
from datastreamx.cli.status import brokers, letters
from datastreamx.clock import SystemClock
from datastreamx.config import Config, load_config
from datastreamx.errors import UnsafeTableError
from datastreamx.model.auction import AggregatorOutcome, Decision, LateBid, Outcome, WinningAd
from datastreamx.model.identity import box_key, push_id
from datastreamx.tables import AD_DECISIONS, BIDS, LATE_BIDS, TABLES, Column, Kind, Row, Table
from datastreamx.wire.decisions import encode_decision
from operators.decisions.rows import decision_row, late_row
from simulator.bigquery import LocalBigQuery
from simulator.fleet.ledger import read_ledger
from sinks.bigquery.client import rest_client
from sinks.bigquery.schema import apply_tables, check_tables
from sources.kafka.events import EventSource
from sources.kafka.warehouse import WarehouseSource
from tests.bid_rows import bid_rows
from tests.cli.running import Cli, Ended, make_cli
from tests.integration.brokers import Broker, Record, produce

pytestmark = pytest.mark.integration

WAIT_S = 30.0
PSEUDONYM_KEY = b"0123456789abcdef"
BOX = "stb-000042"

_numbers = itertools.count()


@pytest.fixture(scope="module")
def bigquery_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBigQuery]:
    with LocalBigQuery(tmp_path_factory.mktemp("bigquery")) as running:
        yield running


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return make_cli(monkeypatch, capsys)


@pytest.fixture
def aggregator_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def path(broker: Broker, bigquery_server: LocalBigQuery, aggregator_port: int, tmp_path: Path) -> Path:
    """A configuration with topics and a dataset of its own, neither of which exists yet."""
    name = f"cli-{os.getpid()}-{next(_numbers)}"
    file = tmp_path / "datastreamx.toml"
    file.write_text(
        f"""
        [kafka]
        bootstrap = "{broker.bootstrap}"
        [topics]
        events = "{name}-events"
        decisions = "{name}-decisions"
        facts = "{name}-facts"
        dead_letters = "{name}-dead"
        [events]
        partitions = 2
        [bigquery]
        project = "test"
        dataset = "{name.replace("-", "_")}"
        rest_endpoint = "{bigquery_server.rest_url}"
        grpc_endpoint = "{bigquery_server.grpc_target}"
        [recovery]
        directory = "{tmp_path / "recovery"}"
        [privacy]
        box_key_secret = "{PSEUDONYM_KEY.decode()}"
        [[aggregators]]
        name = "alpha"
        adapter = "simple"
        url = "http://127.0.0.1:{aggregator_port}/bid"
        """,
        encoding="utf-8",
    )
    return file


@pytest.fixture
def applied(cli: Cli, path: Path) -> Path:
    """The same, with topics and tables."""
    ended = cli("apply", "--config", str(path))
    assert ended.code == Exit.OK, ended
    return path


def changed(path: Path, old: str, new: str) -> Path:
    """A copy of the configuration with something else in it."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    copy = path.with_name("changed.toml")
    copy.write_text(text.replace(old, new), encoding="utf-8")
    return copy


def until(call: Callable[[], Ended], is_so: Callable[[Any], bool]) -> Any:
    """JSON of a command, once it says what it should; offsets are committed in the background."""
    give_up_s = time.monotonic() + WAIT_S
    while True:
        ended = call()
        if is_so(ended.json) or time.monotonic() > give_up_s:
            return ended.json


# Topics and tables


def test_plan_changes_nothing_and_apply_makes_all_of_it_once(cli: Cli, path: Path) -> None:
    first = cli("plan", "--config", str(path), "--json")
    again = cli("plan", "--config", str(path), "--json")
    assert (first.code, first.json) == (Exit.OK, again.json)
    kafka, tables = first.json["kafka"], first.json["bigquery"]
    assert (kafka["state"], tables["state"]) == ("planned", "planned")
    assert len(kafka["changes"]) == 4
    assert len(tables["changes"]) == 1 + len(TABLES)

    made = cli("apply", "--config", str(path), "--json")
    assert made.code == Exit.OK
    assert made.json["kafka"]["changes"] == kafka["changes"]
    assert made.json["bigquery"]["changes"] == tables["changes"]

    assert "Everything is in place." in cli("apply", "--config", str(path)).out
    assert cli("plan", "--config", str(path), "--json").json["kafka"]["state"] == "ready"


def test_dataset_of_an_earlier_release_gets_the_columns_and_tables_that_it_lacks(cli: Cli, applied: Path) -> None:
    config = load_config(applied)
    client = rest_client(config.bigquery)
    earlier = [replace(table, columns=_of_version_1(table)) for table in (AD_DECISIONS, BIDS)]
    for name in (AD_DECISIONS.name, BIDS.name, LATE_BIDS.name):
        client.delete_table(f"{config.bigquery.project}.{config.bigquery.dataset}.{name}")
    assert len(apply_tables(client, config.bigquery, earlier)) == len(earlier)
    old = decision("old", ago_ms=60_000)
    insert(config, "ad_decisions", [decision_row(old, 0)], version=1)
    insert(config, "bids", bid_rows(old, 0), version=1)
    with pytest.raises(UnsafeTableError, match="datastreamx apply"):
        check_tables(client, config.bigquery)

    changes = cli("plan", "-c", str(applied), "--json").json["bigquery"]["changes"]
    assert len(changes) == 3
    for column in ("explored", "history_allowed", "ads", "break_ads", "first_byte_us", "offered_micros", "notices"):
        assert any(change.startswith("add column") and column in change for change in changes), column
    assert cli("apply", "-c", str(applied), "--json").json["bigquery"]["changes"] == changes
    check_tables(client, config.bigquery)

    new = decision("new", ago_ms=30_000)
    insert(config, "ad_decisions", [decision_row(new, 1)])
    insert(config, "bids", bid_rows(new, 1))
    told = cli("explain", BOX, "-c", str(applied), "--last", "2", "--json").json["decisions"]
    assert [(one["auction_id"], one["explored"], [ad["ad_id"] for ad in one["ads"]]) for one in told] == [
        ("new", False, ["ad-1"]),
        ("old", None, ["ad-1"]),
    ]


def _of_version_1(table: Table) -> tuple[Column, ...]:
    return tuple(column for column in table.columns if column.since == 1)


def test_an_outage_of_kafka_does_not_hide_bigquery(cli: Cli, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "TIMEOUT_S", 0.5)
    bootstrap = load_config(path).kafka.bootstrap
    ended = cli("apply", "--config", str(changed(path, bootstrap, "127.0.0.1:9")))
    assert ended.code == Exit.UNREACHABLE
    assert "unreachable: no broker answers at 127.0.0.1:9" in ended.out
    assert ended.out.count("+ create table") == len(TABLES)
    assert cli("plan", "--config", str(path), "--json").json["bigquery"]["state"] == "ready"


def test_another_partition_count_is_refused_with_its_remedy(cli: Cli, applied: Path) -> None:
    ended = cli("plan", "--config", str(changed(applied, "partitions = 2", "partitions = 3")))
    assert ended.code == Exit.FAILED
    assert "has 2 partitions, 3 are configured" in ended.out


# Status


def test_lag_is_exact_whatever_end_the_broker_reports(cli: Cli, applied: Path, broker: Broker) -> None:
    config = load_config(applied)
    events = config.topics.events
    first: Record = (0, b"box", b"{}")
    second: Record = (1, b"box", b"{}")
    offsets = produce(broker, events, [first] * 300)
    assert offsets == [*range(300)]
    read_and_commit(config)
    produce(broker, events, [first] * 70 + [second] * 5)

    found = until(
        lambda: cli("status", "-c", str(applied), "--json"), lambda s: s["flows"][0]["lag_records"] is not None
    )
    ads, warehouse = found["flows"]
    assert [(lag["committed"], lag["end"], lag["records"]) for lag in ads["lags"]] == [(300, 370, 70), (0, 5, 5)]
    assert ads["lag_records"] == 75
    assert all(lag["is_end_exact"] for lag in [*ads["lags"], *warehouse["lags"]])
    assert warehouse["lag_records"] == 0
    assert found["kafka"]["newest_event_ms"] > SystemClock().now_ms() - 60_000


def test_flow_that_goes_on_while_status_looks_is_not_ahead_of_its_log(
    cli: Cli, applied: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(applied)
    produce(broker, config.topics.events, [(0, b"box", b"{}")] * 10)
    read_and_commit(config)
    find_ends = brokers._ends

    def find_ends_slowly(*arguments: Any) -> Any:
        ends = find_ends(*arguments)
        produce(broker, config.topics.events, [(0, b"box", b"{}")] * 5)
        read_and_commit(config)
        return ends

    monkeypatch.setattr(brokers, "_ends", find_ends_slowly)
    ended = cli("status", "-c", str(applied))
    assert "Flow ads  lag 0" in ended.out
    assert "read further" not in ended.out


def test_a_flow_that_never_ran_has_an_unknown_lag(cli: Cli, applied: Path) -> None:
    ended = cli("status", "-c", str(applied))
    assert ended.code == Exit.OK
    assert "Flow ads  lag unknown" in ended.out
    assert "ads never showed its progress" in ended.out
    assert "none for 1 h" in ended.out


def test_last_decision_comes_from_the_log_and_freshness_from_the_tables(
    cli: Cli, applied: Path, broker: Broker
) -> None:
    config = load_config(applied)
    older, newer = decision("a", ago_ms=200_000), decision("b", ago_ms=5_000)
    produce(broker, config.topics.decisions, [(1, b"box", encode_decision(newer)), (0, b"box", encode_decision(older))])
    insert(config, "ad_decisions", [decision_row(older, 0)])
    produce(broker, config.topics.dead_letters, [(0, b"box", b"?")] * 2)

    ended = cli("status", "-c", str(applied), "--json")
    assert ended.code == Exit.OK
    last = ended.json["kafka"]["last_decision"]
    assert (last["auction_id"], last["decided_ms"], last["price_micros"]) == ("b", newer.decided_ms, 4_250_000)
    ages = {table["name"]: table["age_ms"] for table in ended.json["bigquery"]["tables"]}
    assert ages.keys() == TABLES.keys()
    assert 200_000 <= ages["ad_decisions"] < 260_000
    assert ages["bids"] is None
    # The first decision of all is 200 s old.
    assert ended.json["bigquery"]["decisions_per_minute"] == pytest.approx(60 / 200, rel=0.3)
    assert 200_000 <= ended.json["bigquery"]["rate_window_ms"] < 260_000
    assert ended.json["kafka"]["dead_letters"] == 2
    assert any("BigQuery lacks the last 3 min" in note for note in ended.json["notes"])


def test_dead_letters_are_counted_by_reason_while_nothing_runs(
    cli: Cli, applied: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = load_config(applied).topics.dead_letters
    for reason in ("invalid", "clock_skew", "invalid", "malformed", "invalid"):
        produce(broker, topic, [(0, b"box", b"?")], headers=[("reason", reason.encode())])
    produce(broker, topic, [(0, b"box", b"?")])

    def counted() -> dict[str, int]:
        found = cli("status", "-c", str(applied), "--json").json
        assert found["kafka"]["dead_letters"] == 6
        return {one["reason"]: one["records"] for one in found["kafka"]["dead_letter_reasons"]}

    assert counted() == {"invalid": 3, "clock_skew": 1, "malformed": 1, "unknown": 1}
    monkeypatch.setattr(letters, "LETTERS_MAX", 2)
    assert counted() == {"invalid": 1, "unknown": 1}


def test_decision_of_another_release_is_a_problem_that_hides_nothing_of_bigquery(
    cli: Cli, applied: Path, broker: Broker
) -> None:
    value = encode_decision(msgspec.structs.replace(decision("a", ago_ms=1), v=1))
    produce(broker, load_config(applied).topics.decisions, [(0, b"box", value)])
    ended = cli("status", "-c", str(applied), "--json")
    assert ended.code == Exit.FAILED
    assert "a record of version 1, this program reads 2" in ended.json["kafka"]["problem"]
    assert ended.json["bigquery"]["problem"] is None


def test_missing_topics_and_tables_are_no_outage(cli: Cli, path: Path) -> None:
    ended = cli("status", "-c", str(path), "--json")
    assert ended.code == Exit.FAILED
    assert "datastreamx apply" in ended.json["kafka"]["problem"]
    assert ended.json["bigquery"]["problem"] == f"{1 + len(TABLES)} changes to make first: `datastreamx apply`"


# Doctor


def test_doctor_finds_all_well_when_it_is(cli: Cli, applied: Path) -> None:
    ended = cli("doctor", "-c", str(applied))
    assert ended.code == Exit.OK, ended.out
    for line in ("ok   Kafka topics", "ok   BigQuery tables", "ok   BigQuery write", "ok   Aggregator alpha"):
        assert line in ended.out
    assert "ok   Clock" in ended.out
    assert not (applied.parent / "recovery").exists()


def test_doctor_names_what_apply_would_make(cli: Cli, path: Path) -> None:
    ended = cli("doctor", "-c", str(path), "--json")
    assert ended.code == Exit.FAILED
    failed = {finding["what"]: finding["remedy"] for finding in ended.json["findings"] if finding["state"] == "fail"}
    assert failed == {"Kafka topics": "`datastreamx apply`", "BigQuery tables": "`datastreamx apply`"}


def test_doctor_tells_a_stranger_on_the_port_from_a_broker(
    cli: Cli, applied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datastreamx.cli.doctor.checks.METADATA_TIMEOUT_S", 1.0)
    config = load_config(applied)
    web = config.bigquery.rest_endpoint
    assert web is not None
    ended = cli("doctor", "-c", str(changed(applied, config.kafka.bootstrap, web.removeprefix("http://"))))
    assert ended.code == Exit.UNREACHABLE
    assert "ok   Kafka bootstrap" in ended.out
    assert "does not answer as Kafka" in ended.out


# Query


def test_query_needs_no_dataset_and_prints_rows(cli: Cli, applied: Path) -> None:
    config = load_config(applied)
    insert(config, "ad_decisions", [decision_row(decision(name, ago_ms=1_000), 0) for name in ("a", "b", "c")])
    sql = "SELECT auction_id, price_micros FROM ad_decisions WHERE decided_time > TIMESTAMP '2020-01-01' ORDER BY 1"
    shown = cli("query", sql, "-c", str(applied))
    assert (shown.code, shown.err) == (Exit.OK, "")
    assert [line.split() for line in shown.out.splitlines()[2:]] == [[name, "4250000"] for name in "abc"]

    cut = cli("query", sql, "-c", str(applied), "--json", "--limit", "2")
    assert cut.json["rows"] == [{"auction_id": name, "price_micros": 4_250_000} for name in "ab"]
    assert cut.json["is_cut"] is True
    assert "cut after 2 rows" in cut.err
    whole = cli("query", sql, "-c", str(applied), "--csv", "--limit", "3")
    assert whole.out == "auction_id,price_micros\na,4250000\nb,4250000\nc,4250000\n"
    assert whole.err == ""


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT * FROM nope", "SELECT nope FROM bids WHERE decided_time > x"])
def test_what_bigquery_refuses_is_told_in_one_line(cli: Cli, applied: Path, sql: str) -> None:
    ended = cli("query", sql, "-c", str(applied))
    assert ended.code == Exit.FAILED
    assert ended.err.startswith("error: BigQuery refuses: ")
    assert len(ended.err.splitlines()) == 1
    assert "Job ID" not in ended.err


# Explain


def test_a_box_is_found_by_its_raw_id_which_is_not_in_the_json(cli: Cli, applied: Path) -> None:
    config = load_config(applied)
    mine = [decision("old", ago_ms=60_000), decision("new", ago_ms=30_000)]
    stranger = decision("other", ago_ms=10_000, box="stb-000043")
    for one in (*mine, stranger):
        insert(config, "ad_decisions", [decision_row(one, 0)])
        insert(config, "bids", bid_rows(one, 0))
    insert(config, "impressions", [impression_row(mine[1])])
    insert(config, "late_bids", [late_row(late(mine[1]), 0, 0)])

    last = cli("explain", BOX, "-c", str(applied), "--json")
    assert last.code == Exit.OK, last.err
    assert BOX not in last.out
    (told,) = last.json["decisions"]
    assert told["auction_id"] == "new"
    assert [(bid["aggregator"], bid["outcome"]) for bid in told["bids"]] == [("alpha", "won"), ("beta", "timeout")]
    assert [(ad["ad_id"], ad["display"]["shown_ms"]) for ad in told["ads"]] == [("ad-1", 15_000)]
    assert [bid["late"] and bid["late"]["latency_us"] for bid in told["bids"]] == [None, 412_000]

    both = cli("explain", BOX, "-c", str(applied), "--last", "5").out
    assert both.index("auction new") < both.index("auction old")
    assert "auction other" not in both
    assert "not reported by the box (yet)" in both


def test_decisions_before_the_asked_time_are_left_out(cli: Cli, applied: Path) -> None:
    config = load_config(applied)
    insert(config, "ad_decisions", [decision_row(decision("old", ago_ms=2 * 3_600_000), 0)])
    assert cli("explain", BOX, "-c", str(applied), "--since", "1").code == Exit.FAILED
    assert cli("explain", BOX, "-c", str(applied), "--since", "3").code == Exit.OK


def test_a_box_without_decisions_is_told_why(cli: Cli, applied: Path) -> None:
    ended = cli("explain", BOX, "-c", str(applied))
    assert (ended.code, ended.out) == (Exit.FAILED, "")
    assert "nor is any event of it known" in ended.err
    insert(load_config(applied), "box_events", [event_row()])
    assert "but 1 events of it, 1 of them tunes" in cli("explain", BOX, "-c", str(applied)).err


# Simulate


def test_simulate_ends_on_ctrl_c_with_final_books(applied: Path) -> None:
    ledger = applied.parent / "books" / "ledger.json"
    argv = [sys.executable, "-m", "datastreamx.cli", "simulate", "--boxes", "50", "--speed-up", "20", "--json"]
    fleet = subprocess.Popen(
        [*argv, "--config", str(applied), "--ledger", str(ledger)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        give_up_s = time.monotonic() + WAIT_S
        while not (ledger.exists() and read_ledger(ledger).events) and time.monotonic() < give_up_s:
            time.sleep(0.05)
        fleet.send_signal(signal.SIGINT)
        out, err = fleet.communicate(timeout=WAIT_S)
    finally:
        fleet.kill()
    assert fleet.returncode == Exit.OK, err
    books = msgspec.json.decode(out)
    assert books["finished"] is True
    assert books["events"] == sum(part["records"] for part in books["partitions"].values()) > 0


# Helpers


def read_and_commit(config: Config) -> None:
    """Read all there is as the flows' sources do, and show the progress as they do."""
    options: Any = {"stop_at_end": True, "accept_store": True}
    for source in (EventSource(config, **options), WarehouseSource(config, **options)):
        (name,) = source.list_parts()
        part: Any = source.build_part("step", name, None)
        give_up_s = time.monotonic() + WAIT_S
        try:
            while time.monotonic() < give_up_s:
                part.next_batch()
        except StopIteration:
            part.snapshot()
            # Shown is what is known to be durable, and it is when the source is asked again.
            with contextlib.suppress(StopIteration):
                part.next_batch()
        part.close()


def decision(name: str, *, ago_ms: int, box: str = BOX) -> Decision:
    decided_ms = SystemClock().now_ms() - ago_ms
    return Decision(
        auction_id=name,
        box_id=box,
        box_key=box_key(PSEUDONYM_KEY, box),
        partition=0,
        group=0,
        offset=7,
        emitted_ms=decided_ms - 150,
        trigger="dwell",
        opportunity_ms=decided_ms - 200,
        deadline_ms=decided_ms + 1_800,
        decided_ms=decided_ms,
        slot_ms=30_000,
        channel_id="ch07",
        last_channel_id="ch03",
        last_ad_id=None,
        break_id=None,
        status="won",
        push_id=push_id(name),
        ads=(
            WinningAd(
                push_id=push_id(name),
                aggregator="alpha",
                bid_id="1",
                ad_id="ad-1",
                price_micros=4_250_000,
                currency="USD",
            ),
        ),
        outcomes=(
            AggregatorOutcome(aggregator="beta", code=Outcome.TIMEOUT, called=True, propensity=1.0, latency_us=300_000),
            AggregatorOutcome(
                aggregator="alpha",
                code=Outcome.WON,
                called=True,
                propensity=1.0,
                latency_us=45_000,
                price_micros=4_250_000,
                currency="USD",
                ad_id="ad-1",
            ),
        ),
    )


def late(told: Decision) -> LateBid:
    return LateBid(
        auction_id=told.auction_id,
        aggregator="beta",
        channel_id=told.channel_id,
        decided_ms=told.decided_ms,
        latency_us=412_000,
        price_micros=5_000_000,
        would_have_won=True,
    )


def impression_row(told: Decision) -> Row:
    shown_us = (told.decided_ms + 1_000) * 1_000
    return (
        shown_us,
        told.box_key,
        told.push_id,
        "ad-1",
        15_000,
        True,
        told.auction_id,
        "alpha",
        4_250_000,
        "USD",
        told.channel_id,
        told.decided_ms * 1_000,
        *(0, 0, 0, 0),
    )


def event_row() -> Row:
    now_us = SystemClock().now_ms() * 1_000
    optional = (None,) * 9
    return (now_us, now_us, box_key(PSEUDONYM_KEY, BOX), "e1", 1, 0, "tune", False, "ch07", *optional, *(0, 0, 0, 0))


def insert(config: Config, table: str, rows: list[Row], *, version: int | None = None) -> None:
    """Rows in column order, or what an earlier version had of them; timestamps are microseconds."""
    columns = TABLES[table].columns
    records = [
        {
            column.name: _text(value) if column.kind is Kind.TIMESTAMP and isinstance(value, int) else value
            for column, value in zip(columns, row, strict=True)
            if version is None or column.since <= version
        }
        for row in rows
    ]
    client = rest_client(config.bigquery)
    target = bigquery.TableReference.from_string(f"{config.bigquery.project}.{config.bigquery.dataset}.{table}")
    assert client.insert_rows_json(target, records) == []


def _text(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).isoformat()
