from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from datastreamx.cli.output import Exit
from datastreamx.cli.query.filters import unfiltered_tables
from datastreamx.cli.status import brokers
from datastreamx.cli.status.brokers import flow_groups
from datastreamx.cli.status.render import render
from datastreamx.cli.status.report import (
    BigQueryStatus,
    FlowStatus,
    KafkaStatus,
    Lag,
    LastDecision,
    Status,
    Store,
    TableStatus,
    as_json,
    diagnose,
    exit_code,
    total_lag,
)
from datastreamx.cli.status.stores import look_at_store
from datastreamx.cli.status.tables import freshness_sql
from datastreamx.cli.terminal import show
from datastreamx.tables import TABLES
from tests.builders import T0, config
from tests.cli.running import Cli


def lag(committed: int | None, end: int, *, exact: bool = True) -> Lag:
    return Lag(topic="box-events", partition=0, committed=committed, end=end, is_end_exact=exact)


def status(*lags: Lag, written_ms: int | None = T0, kafka: Any = None, bigquery: Any = None) -> Status:
    store = Store(directory="recovery/ads", files=4, bytes=4096, written_ms=written_ms)
    return Status(
        at_ms=T0,
        kafka=kafka or KafkaStatus(address="a:1"),
        bigquery=bigquery or BigQueryStatus(address="p.d"),
        flows=[FlowStatus(name="ads", group="g", lags=[*lags], store=store)],
    )


def decision(decided_ms: int, *, ads: int = 1) -> LastDecision:
    return LastDecision(
        auction_id="a" * 32,
        decided_ms=decided_ms,
        status="won",
        channel_id="ch1",
        ads=ads,
        aggregator="alpha",
        price_micros=4_250_000,
        currency="USD",
    )


def test_lag_is_the_distance_to_the_end() -> None:
    assert lag(7, 10).records == 3
    assert total_lag([lag(7, 10), lag(10, 10)]) == 3


@pytest.mark.parametrize("unknown", [lag(None, 10), lag(11, 10), lag(11, 10, exact=False)])
def test_lag_is_unknown_rather_than_wrong(unknown: Lag) -> None:
    assert unknown.records is None
    assert total_lag([lag(7, 10), unknown]) is None


def test_no_partition_at_all_is_no_lag_of_zero() -> None:
    assert total_lag([]) is None


def test_a_flow_that_never_committed_is_told_how_to_start() -> None:
    assert diagnose(status(lag(None, 10))) == ["ads never showed its progress: start it with `datastreamx run ads`"]
    assert diagnose(status(lag(None, 10), lag(3, 3))) == []


def test_a_topic_made_anew_is_noticed_but_an_uncertain_end_is_not_blamed() -> None:
    (note,) = diagnose(status(lag(11, 10)))
    assert "box-events[0]" in note
    assert "made anew" in note
    assert diagnose(status(lag(11, 10, exact=False))) == []


def test_an_old_snapshot_asks_whether_the_flow_runs() -> None:
    (note,) = diagnose(status(lag(1, 1), written_ms=T0 - 90_000))
    assert note == "ads wrote its last snapshot here 1 min 30 s ago: is it running?"
    assert diagnose(status(lag(1, 1), written_ms=None)) == []


@pytest.mark.parametrize(("landed_ms", "notes"), [(T0 - 130_000, 1), (T0 - 30_000, 0), (None, 1)])
def test_decisions_missing_in_bigquery_point_at_the_warehouse(landed_ms: int | None, notes: int) -> None:
    kafka = KafkaStatus(address="a:1", last_decision=decision(T0 - 10_000 if landed_ms else T0 - 100_000))
    tables = [TableStatus(name="ad_decisions", newest_ms=landed_ms, window_hours=1)]
    found = diagnose(status(lag(1, 1), kafka=kafka, bigquery=BigQueryStatus(address="p.d", tables=tables)))
    assert len(found) == notes
    assert all("datastreamx run warehouse" in note for note in found)


@pytest.mark.parametrize(
    ("kafka", "bigquery", "code"),
    [
        ({}, {}, Exit.OK),
        ({"problem": "x", "is_unreachable": True}, {}, Exit.UNREACHABLE),
        ({"problem": "x"}, {}, Exit.FAILED),
        ({"problem": "x"}, {"problem": "x", "is_unreachable": True}, Exit.UNREACHABLE),
    ],
)
def test_exit_code_tells_outage_from_what_is_missing(kafka: Any, bigquery: Any, code: Exit) -> None:
    found = status(kafka=KafkaStatus(address="a", **kafka), bigquery=BigQueryStatus(address="p", **bigquery))
    assert exit_code(found) is code


def test_json_carries_what_follows_from_the_numbers() -> None:
    tables = [TableStatus(name="bids", newest_ms=T0 - 5, window_hours=1)]
    found: Any = as_json(status(lag(7, 10), bigquery=BigQueryStatus(address="p.d", tables=tables)))
    (flow,) = found["flows"]
    assert (flow["lag_records"], flow["lags"][0]["records"], flow["snapshot_age_ms"]) == (3, 3, 0)
    assert found["bigquery"]["tables"][0]["age_ms"] == 5
    assert found["notes"] == []


def test_table_shows_lower_bounds_and_unknown_lags(capsys: pytest.CaptureFixture[str]) -> None:
    kafka = KafkaStatus(address="a:1", last_decision=decision(T0 - 1_500))
    show(*render(status(lag(7, 10, exact=False), lag(None, 4), kafka=kafka)))
    out = capsys.readouterr().out
    assert ">= 10" in out
    assert ">= 3" in out
    assert "unknown" in out
    assert "1.5 s ago: won by alpha at 4.25 USD CPM on ch1" in out
    assert not any(line.endswith(" ") for line in out.splitlines())


def test_break_of_several_ads_is_no_win_of_one_aggregator(capsys: pytest.CaptureFixture[str]) -> None:
    show(*render(status(kafka=KafkaStatus(address="a:1", last_decision=decision(T0 - 1_500, ads=3)))))
    assert "won, 3 ads at 4.25 USD CPM on ch1" in capsys.readouterr().out


def test_store_age_is_that_of_its_newest_file(tmp_path: Path) -> None:
    for name, age_s in (("part-0.sqlite3", 100), ("part-0.sqlite3-wal", 10), ("other", 0)):
        (tmp_path / name).write_bytes(b"12345")
        os.utime(tmp_path / name, (T0 // 1000 - age_s, T0 // 1000 - age_s))
    store = look_at_store(tmp_path)
    assert (store.files, store.bytes, store.written_ms) == (1, 10, T0 - 10_000)


def test_a_store_elsewhere_is_no_error(tmp_path: Path) -> None:
    assert look_at_store(tmp_path / "none").written_ms is None


def test_flow_of_notices_is_looked_at_only_if_somebody_wants_notices() -> None:
    assert [*flow_groups(config())] == ["ads", "warehouse"]
    wanted = config('notices = ["win"]\nnotice_hosts = ["track.example.com"]')
    assert flow_groups(wanted)["notices"] == "datastreamx-notices"


def test_freshness_asks_every_table_within_its_partitions() -> None:
    sql = freshness_sql()
    assert all(f"FROM {name} WHERE {table.partition_by} >= @since_" in sql for name, table in TABLES.items())
    assert unfiltered_tables(sql) == []


def test_outages_of_both_systems_still_give_a_report(
    cli: Cli, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brokers, "ANSWER_TIMEOUT_S", 0.5)
    ended = cli("status", "--config", str(config_file), "--json")
    assert ended.code == Exit.UNREACHABLE
    assert ended.json["kafka"]["is_unreachable"]
    assert "does not answer" in ended.json["bigquery"]["problem"]
    assert [flow["name"] for flow in ended.json["flows"]] == ["ads", "warehouse"]
