from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest

from datastreamx.cli import warehouse
from datastreamx.cli.output import Exit
from datastreamx.cli.query.filters import filter_hint, is_missing_filter, unfiltered_tables
from datastreamx.cli.query.render import as_csv, as_table, plain
from datastreamx.cli.terminal import show
from datastreamx.cli.warehouse import Answer
from datastreamx.errors import CrashError
from datastreamx.tables import TABLES
from tests.cli.running import Cli

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
REFUSED = (
    "BigQuery refuses: Cannot query over table 'p.datastreamx.bids' without a filter over column(s) 'decided_time' "
    "that can be used for partition elimination"
)


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT * FROM box_events", ["box_events"]),
        ("select * from `Box_Events` where EVENT_TIME > x", []),
        ("SELECT event_time FROM box_events", ["box_events"]),
        ("SELECT * FROM bids JOIN ad_decisions USING (auction_id) WHERE minute > 1", ["ad_decisions", "bids"]),
        ("SELECT * FROM bids -- WHERE decided_time > 0", ["bids"]),
        ("SELECT 'box_events'", []),
        ("SELECT 1", []),
        ("SELECT * FROM a JOIN bids ON bids.decided_time > a.t", []),
    ],
)
def test_tables_without_their_partition_filter_are_found(sql: str, names: list[str]) -> None:
    assert sorted(table.name for table in unfiltered_tables(sql)) == names


def test_the_hint_names_the_column_to_filter() -> None:
    hint = filter_hint(unfiltered_tables("SELECT * FROM bids"))
    assert "bids: AND decided_time >= TIMESTAMP_SUB(" in hint


def test_help_names_every_table(cli: Cli) -> None:
    text = cli("query", "--help").out
    assert [name for name in TABLES if name not in text] == []


def test_bigquerys_refusal_is_recognised() -> None:
    assert is_missing_filter(REFUSED)
    assert not is_missing_filter("Syntax error")


def test_csv_can_be_read_back() -> None:
    rows = [("a,b", None, 1.5, True), ('say "x"\nand y', MOMENT, Decimal("2.50"), [1, {"k": None}])]
    text = as_csv(("one", "two", "three", "four"), rows)
    assert [*csv.reader(io.StringIO(text))] == [
        ["one", "two", "three", "four"],
        ["a,b", "", "1.5", "true"],
        ['say "x"\nand y', "2026-01-02T03:04:05.678000+00:00", "2.50", '[1, {"k": null}]'],
    ]


def test_every_type_of_bigquery_becomes_json() -> None:
    value = {"t": MOMENT, "d": date(2026, 1, 2), "n": Decimal("1.10"), "b": b"\xff\x00", "s": [{"x": None}]}
    assert json.loads(json.dumps(plain(value))) == {
        "t": "2026-01-02T03:04:05.678000+00:00",
        "d": "2026-01-02",
        "n": "1.10",
        "b": "/wA=",
        "s": [{"x": None}],
    }


def test_a_pipe_breaks_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    show(as_table(("long", "n"), [("x" * 500, 1), ("[bold]y", None)]))
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 4
    assert "x" * 500 in out
    assert "[bold]y" in out
    assert "null" in out


class FakeWarehouse:
    """Answers with what the test chose, or refuses."""

    answer: Answer | CrashError = Answer(("n",), [(1,), (2,)], is_cut=True, bytes_processed=0)
    asked: ClassVar[dict[str, Any]] = {}

    def __init__(self, _config: object) -> None: ...

    def ask(self, sql: str, **options: Any) -> Answer:
        FakeWarehouse.asked = {"sql": sql, **options}
        if isinstance(self.answer, CrashError):
            raise self.answer
        return self.answer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeWarehouse]:
    monkeypatch.setattr(warehouse, "Warehouse", FakeWarehouse)
    return FakeWarehouse


def test_a_cut_answer_says_so_and_how_to_get_the_rest(cli: Cli, config_file: Path, fake: type[FakeWarehouse]) -> None:
    ended = cli("query", "SELECT 1", "--limit", "2", "--csv", "-c", str(config_file))
    assert ended.out == "n\n1\n2\n"
    assert ended.err == "cut after 2 rows; --limit 0 prints all\n"
    assert fake.asked["rows_max"] == 2


def test_limit_0_asks_for_all(cli: Cli, config_file: Path, fake: type[FakeWarehouse]) -> None:
    cli("query", "SELECT 1", "--limit", "0", "-c", str(config_file))
    assert fake.asked["rows_max"] is None
    assert fake.asked["gib_max"] == 10


def test_sql_comes_from_standard_input(
    cli: Cli, config_file: Path, fake: type[FakeWarehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT 3"))
    cli("query", "-", "-c", str(config_file))
    assert fake.asked["sql"] == "SELECT 3"


def test_a_refusal_for_a_missing_filter_comes_with_the_filter(
    cli: Cli, config_file: Path, fake: type[FakeWarehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "answer", CrashError(REFUSED))
    ended = cli("query", "SELECT * FROM bids", "-c", str(config_file))
    assert ended.code == Exit.FAILED
    assert "hint: " in ended.err
    assert "bids: AND decided_time >=" in ended.err


def test_the_local_bigquery_is_stood_in_for_by_a_note(cli: Cli, config_file: Path, fake: type[FakeWarehouse]) -> None:
    assert fake is FakeWarehouse
    ended = cli("query", "SELECT * FROM bids", "-c", str(config_file))
    assert ended.code == Exit.OK
    assert "note: BigQuery would refuse this query" in ended.err
    assert "note:" not in cli("query", "SELECT * FROM bids WHERE decided_time > x", "-c", str(config_file)).err


def test_one_format_at_a_time(cli: Cli, config_file: Path) -> None:
    assert cli("query", "SELECT 1", "--csv", "--json", "-c", str(config_file)).code == Exit.USAGE
    assert cli("query", "  ", "-c", str(config_file)).code == Exit.USAGE
