"""Erasing a box: which rows are about it, what is left elsewhere, and what the command refuses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from datastreamx.cli.forget import run as run_module
from datastreamx.cli.forget.remains import FAIL_SAFE_MS, Retention, remains
from datastreamx.cli.forget.render import render
from datastreamx.cli.forget.report import (
    Erasure,
    PartnerKey,
    Remain,
    TableRows,
    active_until_ms,
    as_json,
    notes,
    with_result,
)
from datastreamx.cli.forget.retention import ask_retention
from datastreamx.cli.forget.rows import LANDING, erase, survey
from datastreamx.cli.forget.run import Wish, run
from datastreamx.cli.forget.statements import (
    BY_AUCTION,
    BY_KEY,
    IN_ORDER,
    SUMS,
    count_by_auction_sql,
    count_by_key_sql,
    delete_sql,
)
from datastreamx.cli.output import Exit
from datastreamx.cli.query.filters import unfiltered_tables
from datastreamx.cli.terminal import show
from datastreamx.cli.warehouse import Answer
from datastreamx.clock import ManualClock
from datastreamx.errors import CrashError
from datastreamx.model.identity import box_key, partner_key
from datastreamx.tables import TABLES
from tests.builders import T0, config
from tests.cli.running import Cli

KEY = "0f" * 16
BOX = "stb-000042"
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
RETENTIONS = {name: Retention(72 * HOUR_MS) for name in ("box-events", "ad-decisions", "box-facts", "dead-letters")}


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


# Statements


def test_every_table_is_about_boxes_or_holds_sums() -> None:
    names = {kind: {table.name for table in tables} for kind, tables in (("key", BY_KEY), ("auction", BY_AUCTION))}
    assert names == {
        "key": {"box_events", "viewing_sessions", "ad_decisions", "impressions"},
        "auction": {"bids", "late_bids"},
    }
    assert [table.name for table in SUMS] == ["minute_rollups"]
    assert {*IN_ORDER, *SUMS} == {*TABLES.values()}


def test_decisions_go_last_because_bids_are_found_through_them() -> None:
    assert IN_ORDER[-1].name == "ad_decisions"
    assert {table.name for table in IN_ORDER[:2]} == {"bids", "late_bids"}


def test_every_statement_filters_the_partitions() -> None:
    for sql in (count_by_key_sql(), count_by_auction_sql()):
        assert unfiltered_tables(sql) == []
    for table in IN_ORDER:
        sql = delete_sql(table)
        assert sql.startswith(f"DELETE FROM {table.name} WHERE {table.partition_by} ")  # noqa: S608  ours
        assert unfiltered_tables(sql.replace("DELETE", "SELECT *")) == []


# Rows, against a warehouse that notes what it is asked


class Warehouse:
    """Answers counts with `counts`, deletions with all that was counted."""

    def __init__(self, counts: Mapping[str, int], *, newest_ms: int = T0 - 2 * DAY_MS) -> None:
        self.counts = dict(counts)
        self.newest_ms = newest_ms
        self.deletions: list[tuple[str, dict[str, Any]]] = []
        self.questions: list[dict[str, Any]] = []

    def ask(self, sql: str, parameters: dict[str, Any]) -> Answer:
        if sql.startswith("DELETE"):
            table = sql.split()[2]
            self.deletions.append((table, parameters))
            return Answer((), [], is_cut=False, bytes_processed=0, changed=self.counts.pop(table))
        self.questions.append(parameters)
        names = [table.name for table in (BY_AUCTION if "from" in parameters else BY_KEY)]
        return Answer(("name",), [self._row(name) for name in names], is_cut=False, bytes_processed=1_000)

    def time_travel_hours(self) -> int | None:
        return 48

    def _row(self, name: str) -> tuple[Any, ...]:
        count = self.counts.get(name, 0)
        if not count:
            return (name, 0, None, None, None)
        heard = at(self.newest_ms) if name in {"box_events", "ad_decisions"} else None
        return (name, count, at(self.newest_ms - 30 * DAY_MS), at(self.newest_ms), heard)


def test_tables_of_auctions_are_looked_at_only_around_the_boxs_own() -> None:
    warehouse: Any = Warehouse({"ad_decisions": 3, "bids": 9, "box_events": 20})
    found = survey(warehouse, (KEY,))
    assert {table.name: table.rows for table in found.tables} == {
        "bids": 9,
        "late_bids": 0,
        "box_events": 20,
        "viewing_sessions": 0,
        "impressions": 0,
        "ad_decisions": 3,
    }
    assert (found.heard_ms, found.bytes_read) == (warehouse.newest_ms, 2_000)
    around = warehouse.questions[1]
    assert around["from"] == at(warehouse.newest_ms - 31 * DAY_MS)
    assert around["until"] == at(warehouse.newest_ms + DAY_MS)


def test_box_without_auctions_costs_no_look_at_bids() -> None:
    warehouse: Any = Warehouse({"box_events": 20})
    assert {table.rows for table in survey(warehouse, (KEY,)).tables} == {0, 20}
    assert len(warehouse.questions) == 1


def test_only_tables_with_rows_are_rewritten_and_in_order() -> None:
    warehouse: Any = Warehouse({"ad_decisions": 3, "bids": 9, "box_events": 20})
    found = survey(warehouse, (KEY,))
    erased = erase(warehouse, (KEY,), found, at(T0))
    assert erased == {"bids": 9, "box_events": 20, "ad_decisions": 3}
    assert [table for table, _ in warehouse.deletions] == ["bids", "box_events", "ad_decisions"]
    parameters = dict(warehouse.deletions)
    before = at(T0) - LANDING
    assert parameters["bids"] == {**warehouse.questions[1], "before": before}
    assert parameters["ad_decisions"]["before"] == before
    assert "before" not in parameters["box_events"]
    assert all(one["keys"] == (KEY,) for one in parameters.values())


# When


def test_box_is_active_as_long_as_its_state_lives() -> None:
    assert active_until_ms(None, T0, DAY_MS) is None
    assert active_until_ms(T0 - DAY_MS, T0, DAY_MS) is None
    assert active_until_ms(T0 - DAY_MS + 1, T0, DAY_MS) == T0 + 1


@pytest.fixture
def warehouse(monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """What `run` asks, in place of BigQuery and of brokers."""
    made = Warehouse({"box_events": 20, "ad_decisions": 3, "bids": 9})
    monkeypatch.setattr(run_module, "Warehouse", lambda *_, **__: made)
    monkeypatch.setattr(run_module, "ask_retention", lambda _: RETENTIONS)
    return made


def test_without_a_yes_nothing_is_changed(warehouse: Warehouse) -> None:
    erasure = run(config(), Wish(BOX), ManualClock(T0))
    assert (erasure.is_done, erasure.rows, erasure.left) == (False, 32, 0)
    assert warehouse.deletions == []


def test_silent_box_is_erased_and_counted_again(warehouse: Warehouse) -> None:
    erasure = run(config(), Wish(BOX, is_meant=True), ManualClock(T0))
    assert {one.name: (one.rows, one.erased, one.left) for one in erasure.tables if one.rows} == {
        "bids": (9, 9, 0),
        "box_events": (20, 20, 0),
        "ad_decisions": (3, 3, 0),
    }
    assert erasure.is_done
    assert warehouse.counts == {}
    assert erasure.heard_ms == warehouse.newest_ms


def test_box_that_was_heard_of_lately_is_not_erased_unless_forced(warehouse: Warehouse) -> None:
    warehouse.newest_ms = T0 - HOUR_MS
    with pytest.raises(CrashError, match=r"heard of 1 h 0 min ago, .* another 23 h 0 min \(viewing\.state_ttl_ms\)"):
        run(config(), Wish(BOX, is_meant=True), ManualClock(T0))
    assert warehouse.deletions == []
    forced = run(config(), Wish(BOX, is_meant=True, is_forced=True), ManualClock(T0))
    assert forced.is_done
    assert forced.active_until_ms == T0 + 23 * HOUR_MS
    assert any("run this again in 23 h 0 min" in note for note in notes(forced))


def test_pseudonyms_of_older_secrets_are_erased_with_the_one_of_today(warehouse: Warehouse) -> None:
    today = box_key(b"0123456789abcdef", BOX)
    erasure = run(config(), Wish(BOX, (KEY, today), is_meant=True), ManualClock(T0))
    assert erasure.box_keys == [today, KEY]
    assert all(parameters["keys"] == (today, KEY) for _, parameters in warehouse.deletions)
    alone = run(config(), Wish(None, (KEY,)), ManualClock(T0))
    assert (alone.box_keys, alone.partner_keys) == ([KEY], [])


def test_aggregators_that_know_the_box_are_named_with_its_pseudonym_there(warehouse: Warehouse) -> None:
    assert warehouse.deletions == []
    more = '[[aggregators]]\nname = "beta"\nadapter = "simple"\nurl = "http://b/bid"\nwithhold = ["box_key"]\n'
    erasure = run(config(more), Wish(BOX), ManualClock(T0))
    secret = b"0123456789abcdef"
    assert erasure.partner_keys == [
        PartnerKey(aggregator="alpha", key=partner_key(secret, "alpha", box_key(secret, BOX)))
    ]


# What is left elsewhere


def left(heard_ms: int | None = T0 - DAY_MS, **retentions: Retention) -> dict[str, Remain]:
    partners = [PartnerKey(aggregator="alpha", key=KEY)]
    topics = {**RETENTIONS, **{name.replace("_", "-"): one for name, one in retentions.items()}}
    found = remains(config(), topics, 48, partners, at_ms=T0, heard_ms=heard_ms)
    return {one.place: one for one in found}


def test_history_of_the_tables_ends_with_time_travel_and_fail_safe_after_the_deletion() -> None:
    assert left()["history of the tables"].until_ms == T0 + 48 * HOUR_MS + FAIL_SAFE_MS


def test_topic_keeps_a_record_until_its_segment_is_closed_and_its_retention_over() -> None:
    topic = left(box_events=Retention(24 * HOUR_MS, segment_ms=HOUR_MS))["topic box-events"]
    assert topic.until_ms == T0 - DAY_MS + 25 * HOUR_MS
    assert topic.lasts == "1 d 0 h after its last record, and up to 1 h 0 min until the segment is closed"
    configured = left(box_facts=Retention(24 * HOUR_MS, is_asked=False))["topic box-facts"]
    assert "as configured: the brokers do not tell" in configured.lasts


def test_topic_that_keeps_for_ever_needs_somebody() -> None:
    topic = left(dead_letters=Retention(-1))["topic dead-letters"]
    assert (topic.until_ms, topic.remedy) == (None, "set the retention.ms of the topic")
    assert topic.lasts.startswith("for ever")


def test_state_is_gone_after_its_time_to_live() -> None:
    assert left()["recovery store of the ads flow"].until_ms == T0 - DAY_MS + DAY_MS
    assert left()["recovery stores of the other flows"].until_ms == T0 - DAY_MS + HOUR_MS


def test_nothing_is_dated_by_a_box_that_was_never_heard_of() -> None:
    dated = {place for place, one in left(heard_ms=None).items() if one.until_ms is not None}
    assert dated == {"history of the tables"}


def test_brokers_that_do_not_answer_leave_what_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datastreamx.cli.forget.retention.ANSWER_TIMEOUT_S", 0.2)
    found = ask_retention(config("[topics]\nretention_hours = 5\n"))
    assert set(found) == set(RETENTIONS)
    assert set(found.values()) == {Retention(5 * HOUR_MS, is_asked=False)}


# For people and for machines


def erasure(**changes: Any) -> Erasure:
    tables = [
        TableRows(name="bids", rows=9, oldest_ms=T0 - 30 * DAY_MS, newest_ms=T0 - DAY_MS),
        TableRows(name="late_bids", rows=0),
    ]
    fields: dict[str, Any] = {
        "at_ms": T0,
        "box_keys": [KEY],
        "is_done": False,
        "heard_ms": T0 - 3 * DAY_MS,
        "active_until_ms": None,
        "tables": tables,
        "untouched": ["minute_rollups"],
        "remains": [*left().values()],
        "partner_keys": [PartnerKey(aggregator="alpha", key="a" * 32)],
        "bytes_read": 3 << 30,
    }
    return Erasure(**{**fields, **changes})


def test_person_reads_counts_dates_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    show(*render(erasure()))
    out = capsys.readouterr().out
    assert "last heard of  2023-11-11 22:13:20.000 UTC, 3 d 0 h ago" in out
    assert "minute_rollups: sums of many boxes, nothing of it to erase; 3.0 GiB read" in out
    assert f"alpha  {'a' * 32}" in out
    assert out.splitlines()[-1] == "Nothing was changed: --yes erases 9 rows."
    (state,) = (line for line in out.splitlines() if line.startswith("  recovery store of the ads flow "))
    (topic,) = (line for line in out.splitlines() if line.startswith("  topic ad-decisions "))
    assert "gone by now" in state
    assert "2023-11-23 22:13" in topic


def test_rows_that_are_left_are_told_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    found = erasure()
    after = [TableRows(name="bids", rows=2), TableRows(name="late_bids", rows=0)]
    done = erasure(is_done=True, tables=with_result(found.tables, {"bids": 7}, after))
    assert [(one.rows, one.erased, one.left) for one in done.tables] == [(9, 7, 2), (0, 0, 0)]
    (note,) = notes(done)
    assert note.startswith("2 rows came in the meantime")
    show(*render(done))
    assert capsys.readouterr().out.splitlines()[-1] == "7 rows erased, 2 left."


def test_unknown_box_is_no_failure_but_the_id_may_be_wrong() -> None:
    (note,) = notes(erasure(tables=[TableRows(name="bids", rows=0)], heard_ms=None))
    assert "privacy.box_key_secret" in note


def test_json_has_the_counts_and_no_raw_id(warehouse: Warehouse, cli: Cli, config_file: Path) -> None:
    ended = cli("forget", BOX, "--yes", "--json", "--config", str(config_file))
    assert ended.code == Exit.OK
    assert (ended.json["rows"], ended.json["left"], ended.json["is_done"]) == (32, 0, True)
    assert BOX not in ended.out
    assert as_json(erasure())["notes"] == []
    assert warehouse.counts == {}


def test_rows_that_are_left_fail_the_command(
    warehouse: Warehouse, cli: Cli, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "erase", lambda *_: {})
    assert cli("forget", BOX, "--yes", "--config", str(config_file)).code == Exit.FAILED
    assert warehouse.counts


@pytest.mark.parametrize("arguments", [(), ("",), ("--box-key", BOX), (BOX, "--box-key", "0F" * 16)])
def test_nobody_to_forget_is_wrong_usage(arguments: tuple[str, ...], cli: Cli, config_file: Path) -> None:
    assert cli("forget", *arguments, "--config", str(config_file)).code == Exit.USAGE


def test_outage_of_bigquery_changes_nothing_and_says_so(cli: Cli, config_file: Path) -> None:
    ended = cli("forget", BOX, "--yes", "--config", str(config_file))
    assert ended.code == Exit.UNREACHABLE
    assert "BigQuery does not answer" in ended.err
