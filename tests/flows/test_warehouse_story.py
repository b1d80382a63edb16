"""The warehouse flow from topics to visible rows, through crashes of both flows."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from bytewax.errors import BytewaxRuntimeError
from bytewax.recovery import init_db_dir

from datastreamx.config import Config
from datastreamx.model.auction import Decision, Outcome, WinningAd
from datastreamx.model.identity import push_id
from datastreamx.model.log import LogBatch
from datastreamx.tables import (
    AD_DECISIONS,
    BIDS,
    BOX_EVENTS,
    IMPRESSIONS,
    LATE_BIDS,
    TABLES,
    VIEWING_SESSIONS,
    Row,
    record_batch,
)
from datastreamx.wire.decisions import encode_decision
from datastreamx.wire.facts import FactBatch, encode_facts
from flows import warehouse
from flows.ports import Process
from flows.ports.warehouse import WarehousePorts, live_warehouse_ports
from operators.decisions.rows import decision_row, late_row
from operators.impressions.join import Display, Impression, Push, impression_row
from sinks.bigquery.sink import BigQuerySink
from sources.kafka.reader import PartitionReader
from sources.kafka.warehouse import WarehouseSource
from tests.bid_rows import bid_rows
from tests.builders import T0, outcome, winning_ad
from tests.flows.doubles import Script, ScriptedSource, SettledSink, SettledTables, run_epochs
from tests.flows.logs import PARTITIONS, BoxLog, Oracle, draw_logs, facts_from, oracle_of, story_config
from tests.operators.naive import naive_totals, summed
from tests.operators.test_decisions import late, won

SEED = 20_240_917
EPOCHS = [timedelta(0), timedelta(milliseconds=5), timedelta(hours=1)]
"""A snapshot after every item, now and then, and never before the end: then each crash repeats everything."""
LATER_MS = 3 * 3_600_000


@dataclass
class World:
    """Topics as two crashes of the ads flow have left them, and what must become visible."""

    settings: Config
    logs: list[BoxLog]
    oracle: Oracle
    decisions: list[tuple[int, Decision]]
    items: list[LogBatch]

    @cached_property
    def firsts(self) -> list[tuple[int, Decision]]:
        """The first record of each auction, with its offset."""
        found: dict[str, tuple[int, Decision]] = {}
        for offset, decision in self.decisions:
            found.setdefault(decision.auction_id, (offset, decision))
        return list(found.values())

    @cached_property
    def event_rows(self) -> list[Row]:
        return [row for (_, table), rows in self.oracle.rows.items() if table == BOX_EVENTS.name for row in rows]

    @cached_property
    def impressions(self) -> list[Impression]:
        """Every display, with its push if it has one."""
        pushes = {ad.push_id: _push(decision, ad) for _, decision in self.firsts for ad in decision.ads}
        return [Impression(found, pushes.get(found.push_id)) for found in map(_display, self.event_rows) if found]

    @property
    def late_rows(self) -> list[Row]:
        """Late answers, each once, with the first record of an auction that carries it."""
        found: dict[tuple[str, str], Row] = {}
        for offset, decision in self.firsts:
            for told in decision.late:
                found.setdefault((told.auction_id, told.aggregator), late_row(told, decision.partition, offset))
        return list(found.values())

    def expected(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of every table but the rollups."""
        rows: dict[str, list[Row]] = {
            BOX_EVENTS.name: self.event_rows,
            VIEWING_SESSIONS.name: [
                row for (_, table), found in self.oracle.rows.items() if table == VIEWING_SESSIONS.name for row in found
            ],
            AD_DECISIONS.name: [decision_row(decision, offset) for offset, decision in self.firsts],
            BIDS.name: [row for offset, decision in self.firsts for row in bid_rows(decision, offset)],
            LATE_BIDS.name: self.late_rows,
            IMPRESSIONS.name: [impression_row(found) for found in self.impressions],
        }
        return {table: in_order(record_batch(TABLES[table], found).to_pylist()) for table, found in rows.items()}


def _display(row: Row) -> Display | None:
    fields: dict[str, Any] = dict(zip(BOX_EVENTS.arrow_schema.names, row, strict=True))
    if fields["type"] != "ad_shown":
        return None
    names = ("box_key", "push_id", "ad_id", "shown_ms", "source_partition", "key_group", "source_offset", "ordinal")
    return Display(fields["event_time"] // 1000, *(fields[name] for name in names))


def _push(decision: Decision, ad: WinningAd) -> Push:
    return Push(
        decision.auction_id,
        ad.aggregator,
        ad.price_micros,
        ad.currency,
        decision.channel_id,
        decision.decided_ms,
        ad.bid_id,
    )


def in_order(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: repr(sorted(row.items())))


def make_world(seed: int) -> World:
    rng = random.Random(seed)
    settings = story_config("[warehouse]\nrollup_interval_ms = 3")
    logs = draw_logs(seed, records=300)
    oracle = oracle_of(logs, settings)
    messages = _fact_messages(logs, settings, rng)
    decisions = _decision_records(oracle, rng)
    streams = [
        *(
            _batches("box-facts", p, [encode_facts(m) for m in messages if m.partition == p], rng)
            for p in range(PARTITIONS)
        ),
        *(
            _batches("ad-decisions", p, [(encode_decision(d), []) for _, d in decisions if d.partition == p], rng)
            for p in range(PARTITIONS)
        ),
    ]
    return World(settings, logs, oracle, decisions, _interleaved(streams, rng))


def _fact_messages(logs: Sequence[BoxLog], settings: Config, rng: random.Random) -> list[FactBatch]:
    """Three runs of the ads flow: the first two die, each successor begins before where that was and cuts otherwise."""
    starts = {log.partition: 0 for log in logs}
    written: list[FactBatch] = []
    for run, share in enumerate((0.4, 0.8, 1.0)):
        messages = facts_from(logs, settings, rng.randrange(2**32), starts)
        written += messages[: round(share * len(messages))]
        reached = {p: max((_last_offset(m) for m in written if m.partition == p), default=0) for p in starts}
        starts = {p: max(0, at - rng.randrange(10, 40)) for p, at in reached.items()} if run < 2 else starts
    return written


def _last_offset(message: FactBatch) -> int:
    offset: int = message.rows.column("source_offset")[-1].as_py()
    return offset


def _decision_records(oracle: Oracle, rng: random.Random) -> list[tuple[int, Decision]]:
    """Decisions behind most of the displays, and some that are never displayed; some follow twice.

    Each second display belongs to the second ad of a break, and each third decision brings a late answer.
    """
    shown = [
        row for (_, table), rows in oracle.rows.items() if table == "box_events" for row in rows if row[6] == "ad_shown"
    ]
    found: list[Decision] = []
    for number, row in enumerate(shown):
        auction_id = f"{number:032x}"
        displayed = f"push-never-{number}" if rng.random() < 0.3 else str(row[11])
        ads = [winning_ad(auction_id, ad_id=f"first-{number}"), winning_ad(auction_id, 1, price_micros=1_500_000)]
        ads = ads[: 1 + number % 2]
        ads[-1] = msgspec.structs.replace(ads[-1], push_id=displayed)
        decision = won(
            number,
            partition=row[18],
            decided_ms=T0 + rng.randrange(0, 100_000),
            channel_id=rng.choice("abc"),
            outcomes=(outcome("alpha", Outcome.WON, bids=3, ads_won=len(ads)), outcome("beta", Outcome.TIMEOUT)),
            ads=tuple(ads),
            push_id=ads[0].push_id,
            late=(late(number, decided_ms=T0 + number),) if number % 3 == 0 else (),
        )
        found.append(decision)
    rng.shuffle(found)
    repeated: list[Decision] = []
    waiting: list[Decision] = []
    for decision in found:
        repeated.append(decision)
        if rng.random() < 0.3:
            again = msgspec.structs.replace(
                decision,
                ads=(winning_ad("second"),),
                push_id=push_id("second"),
                decided_ms=decision.decided_ms + 50,
                late=decision.late or (late(5_000 + len(repeated)),),
            )
            waiting.append(again)
        if waiting and rng.random() < 0.4:
            repeated.append(waiting.pop(0))
    repeated += waiting
    # Long after, one decision per partition: what has waited in vain until then is given up.
    repeated += [won(10_000 + p, partition=p, decided_ms=T0 + LATER_MS, channel_id="z") for p in range(PARTITIONS)]
    offsets: defaultdict[int, int] = defaultdict(int)
    numbered = []
    for decision in repeated:
        numbered.append((offsets[decision.partition], decision))
        offsets[decision.partition] += 1
    return numbered


def _batches(
    topic: str, partition: int, records: Sequence[tuple[bytes, list[tuple[str, bytes]]]], rng: random.Random
) -> list[LogBatch]:
    batches = []
    start = 0
    while start < len(records):
        end = min(len(records), start + rng.randint(1, 4))
        values = [value for value, _ in records[start:end]]
        headers = [found for _, found in records[start:end]]
        batches.append(LogBatch(topic, partition, list(range(start, end)), [T0] * (end - start), values, headers))
        start = end
    return batches


def _interleaved(streams: list[list[LogBatch]], rng: random.Random) -> list[LogBatch]:
    """Each stream in its order; the last decisions, which speak of hours later, at the end."""
    later = [stream.pop() for stream in streams if stream[0].topic == "ad-decisions"]
    queues = [list(reversed(stream)) for stream in streams if stream]
    items: list[LogBatch] = []
    while queues:
        queue = rng.choice(queues)
        items.append(queue.pop())
        queues = [left for left in queues if left]
    return [*items, *later]


def assert_nothing_twice(tables: SettledTables) -> None:
    for table in TABLES.values():
        keys = [tuple(row[name] for name in table.key) for row in tables.visible(table.name)]
        assert not table.key or len(set(keys)) == len(keys), table.name


def tell(world: World, places: tuple[int, ...], epoch: timedelta, store: Path) -> SettledTables:
    """Run until the end through crashes, and once more, which makes the last snapshot's rows visible."""
    init_db_dir(store, 1)
    tables = SettledTables()
    script = Script(world.items, *places)
    for _ in range(len(places) + 2):
        ports = WarehousePorts(log=ScriptedSource(script, ticks=True), bigquery=SettledSink(tables))
        run_epochs(warehouse.build(world.settings, ports), epoch, store)
        assert_nothing_twice(tables)
    assert not script.crashes
    return tables


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SEED)


@pytest.mark.parametrize("epoch", EPOCHS, ids=str)
def test_crash_story_every_row_is_visible_exactly_once(world: World, epoch: timedelta, tmp_path: Path) -> None:
    count = len(world.items)
    tables = tell(world, (count // 4, count // 4 + 1, count // 2, count - 1), epoch, tmp_path)
    expected = world.expected()
    assert {table: in_order(tables.visible(table)) for table in expected} == expected
    decisions = [decision for _, decision in world.firsts]
    assert summed(tables.visible("minute_rollups")) == naive_totals(world.event_rows, decisions, world.impressions)


def test_story_without_crashes_ends_the_same(world: World, tmp_path: Path) -> None:
    tables = tell(world, (), EPOCHS[1], tmp_path)
    expected = world.expected()
    assert {table: in_order(tables.visible(table)) for table in expected} == expected


def test_crash_between_the_snapshots_of_two_tables_shows_no_row_twice(world: World, tmp_path: Path) -> None:
    """Some tables have taken a snapshot then that the recovery store never gets: it may prove nothing."""
    init_db_dir(tmp_path, 1)
    crashes = (40, 41, 75, 110, 200)
    tables = SettledTables(*crashes)
    script = Script(world.items)
    died = 0
    for _ in range(len(crashes) + 2):
        ports = WarehousePorts(log=ScriptedSource(script, ticks=True), bigquery=SettledSink(tables))
        try:
            run_epochs(warehouse.build(world.settings, ports), EPOCHS[0], tmp_path)
        except BytewaxRuntimeError:
            died += 1
        assert_nothing_twice(tables)
    assert died == len(crashes)
    expected = world.expected()
    assert {table: in_order(tables.visible(table)) for table in expected} == expected


def test_crashes_cost_appends_that_never_become_visible(world: World, tmp_path: Path) -> None:
    """Else the crash story would prove nothing about settling."""
    tables = tell(world, (len(world.items) // 2,), EPOCHS[2], tmp_path)
    visible = sum(len(tables.visible(table)) for table in TABLES)
    assert tables.appended > visible > 0


def test_story_holds_what_it_is_about(world: World) -> None:
    """Every assertion of the crash story would hold for empty topics, too."""
    facts = [batch for batch in world.items if batch.topic == "box-facts"]
    rows = sum(len(rows) for rows in world.oracle.rows.values())
    assert sum(len(batch.values) for batch in facts) > 20
    assert rows > 200
    assert len(world.decisions) > len(world.firsts) + 3
    matched = [found.push is not None for found in world.impressions]
    assert min(matched.count(True), matched.count(False)) >= 3
    assert all(world.expected().values())


class StandingReader:
    """What nobody polls while BigQuery does not answer."""

    def __init__(self) -> None:
        self.told = 0

    def tell_lag(self) -> None:
        self.told += 1


def test_source_tells_its_lag_while_bigquery_is_waited_for() -> None:
    """Else the flow would be ready all through an outage."""
    ports, reader = live_warehouse_ports(Process(story_config())), StandingReader()
    assert isinstance(ports.log, WarehouseSource)
    assert isinstance(ports.bigquery, BigQuerySink)
    ports.log._readers.append(cast("PartitionReader", reader))
    ports.bigquery._on_wait()
    assert reader.told == 1
