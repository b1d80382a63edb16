"""A box that was seen by the real flows is erased from the local BigQuery, and nobody else is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from datastreamx.cli.forget import rows as forget_rows
from datastreamx.cli.forget.statements import BY_AUCTION, BY_KEY, IN_ORDER
from datastreamx.cli.output import Exit
from datastreamx.model.identity import box_key
from datastreamx.tables import AD_DECISIONS, MINUTE_ROLLUPS, TABLES, Row, Table
from tests.cli.running import Cli, make_cli
from tests.integration.brokers import Broker
from tests.integration.oracle import RollupKey, decided
from tests.integration.pipeline import Pipeline, Servers

pytestmark = [pytest.mark.integration, pytest.mark.one_broker, pytest.mark.timeout(300)]

SECRET = b"0123456789abcdef"
RETENTION_TEXT = "3 d 0 h after its last record"

Rows = dict[str, Counter[Row]]


@dataclass(frozen=True)
class Landed:
    """What the flows have written, and a box that is in every table that a box can be sure to be in."""

    pipeline: Pipeline
    box: str
    rows: Rows
    rollups: dict[RollupKey, dict[str, int]]

    @property
    def key(self) -> str:
        return box_key(SECRET, self.box)


@pytest.fixture(scope="module")
def landed(broker: Broker, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Landed]:
    with Pipeline(tmp_path_factory.mktemp("forget"), broker, servers) as pipeline:
        pipeline.apply()
        pipeline.start("ads", "warehouse")
        with pipeline.fleet(boxes=60, seed=1) as fleet:
            pipeline.wait_until(
                lambda: min(pipeline.counts()[name] for name in ("impressions", "viewing_sessions", "bids")) > 0,
                "something of every kind is a row",
            )
            assert fleet.stop(grace_s=90) == 0, fleet.log_tail()
        pipeline.wait_for_rows()
        assert pipeline.stop("ads", "warehouse") == {"ads": 0, "warehouse": 0}
        key = place(TABLES["impressions"], "box_key")
        shown = {row[key] for row in pipeline.rows("impressions")}
        decisions = decided(pipeline.read_decisions()).decisions
        box = next(one.box_id for one in decisions if one.box_key in shown)
        yield Landed(pipeline, box, all_rows(pipeline), pipeline.rollup_sums())


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return make_cli(monkeypatch, capsys)


def all_rows(pipeline: Pipeline) -> Rows:
    return {name: pipeline.rows(name) for name in TABLES}


def place(table: Table, column: str) -> int:
    return [one.name for one in table.columns].index(column)


def rows_of(key: str, rows: Rows) -> Rows:
    """Rows about the box, found in another way than by SQL."""
    auction = place(AD_DECISIONS, "auction_id")
    mine = {table.name: select(rows[table.name], place(table, "box_key"), {key}) for table in BY_KEY}
    auctions = {row[auction] for row in mine[AD_DECISIONS.name]}
    return mine | {t.name: select(rows[t.name], place(t, "auction_id"), auctions) for t in BY_AUCTION}


def select(rows: Counter[Row], column: int, values: set[object]) -> Counter[Row]:
    return Counter({row: count for row, count in rows.items() if row[column] in values})


def changed(path: Path, old: str, new: str) -> str:
    """A copy of the configuration with something else in it."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    copy = path.with_name("changed.toml")
    copy.write_text(text.replace(old, new), encoding="utf-8")
    return str(copy)


def test_box_is_erased_from_every_table_and_nobody_else_is(
    landed: Landed, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, path = landed.pipeline, str(landed.pipeline.config_path)
    mine = rows_of(landed.key, landed.rows)
    counts = {table.name: mine[table.name].total() for table in IN_ORDER}
    assert min(counts[name] for name in ("box_events", "ad_decisions", "bids", "impressions")) > 0, counts
    assert counts["box_events"] < landed.rows["box_events"].total()

    counted = cli("forget", landed.box, "--config", path, "--json")
    assert counted.code == Exit.OK, counted.err
    assert {one["name"]: one["rows"] for one in counted.json["tables"]} == counts
    assert counted.json["is_done"] is False
    lasts = {one["place"]: one["lasts"] for one in counted.json["remains"]}
    assert lasts[f"topic {pipeline.config.topics.events}"].startswith(RETENTION_TEXT)
    assert "as configured" not in lasts[f"topic {pipeline.config.topics.events}"]
    assert all_rows(pipeline) == landed.rows

    lately = changed(pipeline.config_path, "state_ttl_ms = 7000", "state_ttl_ms = 86400000")
    refused = cli("forget", landed.box, "--config", lately, "--yes")
    assert (refused.code, refused.out) == (Exit.FAILED, "")
    assert "nothing was erased: the box was heard of" in refused.err
    assert all_rows(pipeline) == landed.rows

    # The decisions are so young that, for all that is known, their bids may not have landed.
    forced = cli("forget", landed.box, "--config", lately, "--yes", "--force", "--json")
    assert forced.code == Exit.FAILED
    assert {one["name"]: one["left"] for one in forced.json["tables"]} == {
        name: count if name in {"ad_decisions", "bids", "late_bids"} else 0 for name, count in counts.items()
    }
    assert any("run this again" in note for note in forced.json["notes"])

    monkeypatch.setattr(forget_rows, "LANDING", timedelta())
    done = cli("forget", landed.box, "--config", lately, "--yes", "--force", "--json")
    assert done.code == Exit.OK, done.err
    assert {one["name"]: one["erased"] for one in done.json["tables"] if one["rows"]} == {
        name: counts[name] for name in ("ad_decisions", "bids", "late_bids") if counts[name]
    }
    after = all_rows(pipeline)
    assert {name: landed.rows[name] - after[name] for name in counts} == mine
    assert {name: after[name] - landed.rows[name] for name in TABLES} == {name: Counter() for name in TABLES}
    assert after[MINUTE_ROLLUPS.name] == landed.rows[MINUTE_ROLLUPS.name]
    assert pipeline.rollup_sums() == landed.rollups

    again = cli("forget", landed.box, "--config", path, "--yes", "--json")
    assert (again.code, again.json["rows"], again.json["left"]) == (Exit.OK, 0, 0)
    assert all_rows(pipeline) == after
    told = cli("explain", landed.box, "--config", path)
    assert "nor is any event of it known" in told.err


def test_box_is_found_by_a_pseudonym_alone(landed: Landed, cli: Cli) -> None:
    other = next(
        str(row[place(TABLES["box_events"], "box_key")])
        for row in landed.rows["box_events"]
        if row[place(TABLES["box_events"], "box_key")] != landed.key
    )
    path = changed(landed.pipeline.config_path, SECRET.decode(), "another-secret-of-later")
    ended = cli("forget", "--box-key", other, "--config", path, "--json")
    counts = {one["name"]: one["rows"] for one in ended.json["tables"]}
    assert counts == {name: rows.total() for name, rows in rows_of(other, landed.rows).items()}
    assert ended.json["partner_keys"] == []
