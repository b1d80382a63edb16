from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from datastreamx.cli.output import Exit
from datastreamx.cli.query.filters import unfiltered_tables
from datastreamx.cli.status import brokers
from datastreamx.cli.status.brokers import flow_groups
from datastreamx.cli.status.letters import count_reasons
from datastreamx.cli.status.render import render
from datastreamx.cli.status.report import (
    BigQueryStatus,
    FlowStatus,
    KafkaStatus,
    Lag,
    LastDecision,
    ProcessStatus,
    Status,
    Store,
    TableStatus,
    as_json,
    diagnose,
    exit_code,
    total_lag,
)
from datastreamx.cli.status.stores import look_at_processes, look_at_refusal, look_at_replacement, look_at_store
from datastreamx.cli.status.tables import freshness_sql, rate_window_ms
from datastreamx.cli.terminal import show
from datastreamx.supervisor import Status as Supervision
from datastreamx.supervisor import status_path
from datastreamx.supervisor.status import write_status
from datastreamx.supervisor.view import Exit as WorkerExit
from datastreamx.tables import TABLES
from flows.recovery.quarantine import quarantine, refusal_file
from flows.recovery.swap import JOURNAL, Kind, Swap, begin, complete
from tests.builders import T0, config
from tests.cli.running import Cli


def lag(committed: int | None, end: int, *, exact: bool = True) -> Lag:
    return Lag(topic="box-events", partition=0, committed=committed, end=end, is_end_exact=exact)


def status(
    *lags: Lag,
    written_ms: int | None = T0,
    kafka: Any = None,
    bigquery: Any = None,
    supervisor: Supervision | None = None,
    replacing: str | None = None,
) -> Status:
    store = Store(directory="recovery/ads-0", files=4, bytes=4096, written_ms=written_ms)
    process = ProcessStatus(name="ads-0", store=store, supervisor=supervisor)
    return Status(
        at_ms=T0,
        kafka=kafka or KafkaStatus(address="a:1"),
        bigquery=bigquery or BigQueryStatus(address="p.d"),
        flows=[FlowStatus(name="ads", group="g", lags=[*lags], processes=[process])],
        replacing=replacing,
    )


def supervision(**changes: Any) -> Supervision:
    fields: dict[str, Any] = {
        "flow": "ads",
        "store": "ads-0",
        "at_ms": T0 - 500,
        "supervisor_pid": 1,
        "stage": "running",
        "since_ms": T0 - 90_000,
        "report_age_ms": 400,
    }
    return Supervision(**{**fields, **changes})


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
    assert note == "ads-0 wrote its last snapshot here 1 min 30 s ago: is it running?"
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
    assert (flow["lag_records"], flow["lags"][0]["records"]) == (3, 3)
    assert flow["processes"][0]["snapshot_age_ms"] == 0
    assert found["bigquery"]["tables"][0]["age_ms"] == 5
    assert found["notes"] == []


CRASHED = WorkerExit(at_ms=T0 - 10_000, code=1, reason="error")


@pytest.mark.parametrize(
    ("found", "note"),
    [
        (
            supervision(stage="backing_off", recent_failures=3, last_exit=CRASHED),
            "ads-0 fails again and again, 3 times lately; the last time it ended with code 1",
        ),
        (supervision(report_age_ms=12_000), "the worker of ads-0 has been silent for 12.0 s"),
        (
            supervision(stage="given_up", since_ms=T0 - 7_200_000, at_ms=T0 - 7_200_000, last_exit=CRASHED),
            "ads-0 gave up 2 h 0 min ago: it ended with code 1; read its log, then start `datastreamx run ads` again",
        ),
        (
            supervision(stage="stopped", since_ms=T0 - 60_000, at_ms=T0 - 60_000),
            "ads-0 was stopped 1 min 0 s ago: start it with `datastreamx run ads`",
        ),
        (supervision(at_ms=T0 - 30_000), "ads-0 was last heard of 30.0 s ago: its supervisor is gone"),
    ],
    ids=["fails-again-and-again", "hangs", "gave-up", "stopped", "supervisor-gone"],
)
def test_what_the_supervisor_tells_is_noted_once(found: Supervision, note: str) -> None:
    (told,) = diagnose(status(lag(1, 1), written_ms=T0 - 7_200_000, supervisor=found))
    assert told.startswith(note)


@pytest.mark.parametrize(
    "found", [supervision(), supervision(stage="restoring", report_age_ms=20_000), supervision(recent_failures=1)]
)
def test_a_worker_at_its_work_is_nothing_to_note(found: Supervision) -> None:
    assert diagnose(status(lag(1, 1), supervisor=found)) == []


def test_restoring_is_told_with_what_takes_long_and_for_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    found = supervision(
        stage="restoring", doing="loading state", since_ms=T0 - 12_000, restarts={"hang": 2}, last_exit=CRASHED
    )
    show(*render(status(lag(7, 10), supervisor=found)))
    assert (
        "ads-0  restoring: loading state, 12.0 s; 2 restarts, the last time it ended with code 1; "
        "snapshot 0 ms ago, 4.0 KiB in 4 files" in capsys.readouterr().out
    )


def test_a_clean_end_is_not_told_as_the_reason_of_a_restart(capsys: pytest.CaptureFixture[str]) -> None:
    clean = WorkerExit(at_ms=T0 - 10_000, code=0)
    show(*render(status(lag(7, 10), supervisor=supervision(stage="stopped", restarts={"hang": 1}, last_exit=clean))))
    assert "; 1 restart; snapshot" in capsys.readouterr().out


def test_a_refused_store_is_told_until_somebody_has_decided(tmp_path: Path) -> None:
    store = tmp_path / "ads-0"
    store.mkdir()
    quarantine(store, "part-0.sqlite3: a page is damaged", datetime(2026, 1, 2, tzinfo=UTC))
    write_status(status_path(tmp_path, "ads-0"), supervision(stage="given_up", last_exit=CRASHED))
    (found,) = look_at_processes(tmp_path, "ads", "ads-0")
    (note,) = diagnose(
        Status(
            at_ms=T0,
            kafka=KafkaStatus(address="a:1"),
            bigquery=BigQueryStatus(address="p.d"),
            flows=[FlowStatus(name="ads", group="g", lags=[], processes=[found])],
        )
    )
    assert "nothing starts in its place: part-0.sqlite3: a page is damaged; see" in note
    refusal_file(store).write_bytes(b"{")
    assert "cannot be read" in (look_at_refusal(store) or "")
    refusal_file(store).unlink()
    assert look_at_refusal(store) is None


def letters(*reasons: str) -> KafkaStatus:
    counted = count_reasons((reason, T0 - 1_000 * number) for number, reason in enumerate(reasons, 1))
    return KafkaStatus(address="a:1", dead_letters=3, dead_letter_reasons=counted)


def test_dead_letters_are_told_by_reason_with_the_last_of_each() -> None:
    (note,) = diagnose(status(lag(1, 1), kafka=letters("clock_skew", "invalid", "invalid")))
    assert note == (
        "3 records set aside in the dead-letter topic: invalid 2 (last 2.0 s ago), clock_skew 1 (last 1.0 s ago)"
    )


def test_dead_letters_that_are_too_many_to_look_at_are_told_as_such() -> None:
    (note,) = diagnose(status(lag(1, 1), kafka=letters("invalid")))
    assert note == "3 records set aside in the dead-letter topic (of 1 of the newest): invalid 1 (last 1.0 s ago)"
    (note,) = diagnose(status(lag(1, 1), kafka=letters()))
    assert note == "3 records set aside in the dead-letter topic; each carries its reason in a header"


def test_json_has_dead_letters_by_reason() -> None:
    found: Any = as_json(status(kafka=letters("invalid")))
    assert found["kafka"]["dead_letter_reasons"] == [{"reason": "invalid", "records": 1, "newest_ms": T0 - 1_000}]


def test_metrics_of_a_supervisor_that_lives_are_shown_where_they_are_served(
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = "http://127.0.0.1:43210/metrics"
    show(*render(status(lag(1, 1), supervisor=supervision(metrics=address))))
    assert f"; {address}\n" in capsys.readouterr().out
    show(*render(status(lag(1, 1), supervisor=supervision(metrics=address, at_ms=T0 - 30_000))))
    assert address not in capsys.readouterr().out
    found: Any = as_json(status(supervisor=supervision(metrics=address)))
    assert found["flows"][0]["processes"][0]["supervisor"]["metrics"] == address


@pytest.mark.parametrize("kind", ["rescale", "restore"])
@pytest.mark.parametrize("at", ["begun", "complete"])
def test_an_interrupted_replacement_of_stores_is_told_first_with_what_finishes_it(
    tmp_path: Path, kind: Kind, at: str
) -> None:
    swap = Swap(kind=kind, command=f"datastreamx {kind} --as-it-was", aside="aside", old=(), new=())

    def stop(step: str) -> None:
        if step == at:
            raise KeyboardInterrupt

    assert look_at_replacement(tmp_path) is None
    with suppress(KeyboardInterrupt):
        begin(tmp_path, swap, stop)
        complete(tmp_path, swap, stop)
    replacing = look_at_replacement(tmp_path)
    first, *_ = diagnose(status(lag(None, 1), replacing=replacing))
    assert f"run `datastreamx {kind} --as-it-was` again, which finishes it or takes it back" in first
    assert str(tmp_path) in first
    assert as_json(status(replacing=replacing))["replacing"] == replacing


def test_a_journal_that_cannot_be_read_is_told_too(tmp_path: Path) -> None:
    begin(tmp_path, Swap(kind="rescale", command="", aside="", old=(), new=()), lambda _: None)
    (tmp_path / ".rescale" / JOURNAL).write_bytes(b"{")
    assert "journal.json cannot be read" in (look_at_replacement(tmp_path) or "")


def test_every_cell_on_this_machine_is_found_in_order_by_its_store_or_its_status(tmp_path: Path) -> None:
    for name in ("ads-10", "ads-2", "ads-cluster", "ads-2.unfinished", "ads-old", "warehouse-0"):
        (tmp_path / name).mkdir()
    write_status(status_path(tmp_path, "ads-3"), supervision(store="ads-3"))
    found = look_at_processes(tmp_path, "ads", "ads-0")
    assert [one.name for one in found] == ["ads-cluster", "ads-2", "ads-3", "ads-10"]
    assert [one.name for one in found if one.supervisor] == ["ads-3"]


def test_flow_that_left_no_trace_is_shown_where_it_would_be(tmp_path: Path) -> None:
    (found,) = look_at_processes(tmp_path, "ads", "ads-0")
    assert (found.name, found.store.written_ms, found.supervisor) == ("ads-0", None, None)


@pytest.mark.parametrize(
    ("first_ms", "window_ms"),
    [(None, 300_000), (T0 - 900_000, 300_000), (T0 - 120_000, 120_000), (T0 - 10, 10_000), (T0 + 5_000, 10_000)],
)
def test_rate_of_a_service_that_began_just_now_is_not_diluted(first_ms: int | None, window_ms: int) -> None:
    assert rate_window_ms(T0, first_ms) == window_ms


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


def test_an_interrupted_replacement_reaches_the_command(
    cli: Cli, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brokers, "ANSWER_TIMEOUT_S", 0.5)
    text = config_file.read_text(encoding="utf-8")
    config_file.write_text(f'{text}\n[recovery]\ndirectory = "{tmp_path}"\n', encoding="utf-8")
    command = "datastreamx rescale --cells 2"
    begin(tmp_path, Swap(kind="rescale", command=command, aside="", old=(), new=()), lambda _: None)
    ended = cli("status", "--config", str(config_file))
    assert f"run `{command}` again" in ended.out
