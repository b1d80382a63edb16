"""Replays through whole flows: rows anew through crashes, and a lost store that is built anew."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from bytewax.recovery import init_db_dir
from bytewax.testing import TestingSink

from datastreamx.acks import AckedOffsets
from datastreamx.clock import ManualClock
from datastreamx.config import Config
from datastreamx.model.chunk import DeadLetter
from flows import ads, replay
from flows.ports.ads import AdsPorts
from flows.ports.rebuild import past_bidding_ports
from flows.ports.replay import RowsPorts
from flows.replaying.leaving import LeavingSource
from sources.kafka.replay import ReplayItem
from tests.builders import T0
from tests.flows.doubles import Script, ScriptedSource, SettledSink, SettledTables, bidder, run_epochs
from tests.flows.logs import PARTITIONS, cut, draw_logs, oracle_of, story_config
from tests.flows.test_ads_story import Story, expected_rows, rows_without_repeats
from tests.flows.test_warehouse_story import World, in_order, make_world
from tests.operators.naive import naive_totals, summed

SEED = 20_240_917
EPOCHS = [timedelta(0), timedelta(milliseconds=5), timedelta(hours=1)]
LONG_AFTER_MS = T0 + 86_400_000


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SEED)


def items_of(world: World) -> list[ReplayItem]:
    """Events and decisions, each topic in its order, one among the other; last what speaks of hours later."""
    rng = random.Random(SEED)
    streams: list[list[ReplayItem]] = [
        [chunk for _, chunk in cut(world.logs, SEED)],
        [batch for batch in world.items[:-PARTITIONS] if batch.topic == world.settings.topics.decisions],
    ]
    found: list[ReplayItem] = []
    while streams := [stream for stream in streams if stream]:
        found.append(rng.choice(streams).pop(0))
    return [*found, *world.items[-PARTITIONS:]]


@pytest.mark.parametrize("epoch", EPOCHS, ids=str)
def test_crash_story_of_rows_ends_with_each_of_them_once(world: World, epoch: timedelta, tmp_path: Path) -> None:
    init_db_dir(tmp_path, 1)
    items = items_of(world)
    count = len(items)
    script = Script(items, count // 4, count // 2, count - 1)
    tables, letters = SettledTables(), list[tuple[str, DeadLetter]]()
    # The last time for what a replay does when it has read all: rows of the last snapshot become visible.
    for _ in range(len(script.crashes) + 2):
        ports = RowsPorts(ScriptedSource(script, ticks=True), SettledSink(tables), TestingSink(letters))
        run_epochs(replay.build(world.settings, ports), epoch, tmp_path)

    expected = world.expected()
    assert {table: in_order(tables.visible(table)) for table in expected} == expected
    decisions = [decision for _, decision in world.firsts]
    assert summed(tables.visible("minute_rollups")) == naive_totals(world.event_rows, decisions, world.impressions)
    assert {(letter.partition, letter.offset) for _, letter in letters} == world.oracle.dead_letters


@pytest.fixture
def settings() -> Iterator[Config]:
    made = story_config("[auction]\ntimeout_ms = 5000\npush_reserve_ms = 300")
    (aggregator,) = made.aggregators
    with bidder() as url:
        yield msgspec.structs.replace(made, aggregators=(msgspec.structs.replace(aggregator, url=url),))


class Lost:
    """A flow that is two thirds through when its store is lost, and a replay up to five sixths at the time `now_ms`."""

    def __init__(self, settings: Config, directory: Path, now_ms: int, *, crash: bool = False) -> None:
        logs = draw_logs(SEED, records=250)
        self.oracle = oracle_of(logs, settings)
        items = cut(logs, SEED)
        count = len(items)
        self.story = Story(settings)
        for name in ("lost", "anew"):
            (directory / name).mkdir()
            init_db_dir(directory / name, 1)
        self.story.run(Script(items[: 2 * count // 3]), EPOCHS[1], directory / "lost")
        self.decided_before = {decision.auction_id for decision in self.story.decisions.records}
        script = Script(items[: 5 * count // 6], *([3 * count // 4] if crash else []))
        for _ in range(len(script.crashes) + 1):
            self._replay(settings, script, now_ms, directory / "anew")
        self.replayed = self.story.decisions.records[len(self.decided_before) :]
        self.story.run(Script(items), EPOCHS[1], directory / "anew")

    def _replay(self, settings: Config, script: Script, now_ms: int, store: Path) -> None:
        acked = AckedOffsets()
        with ExitStack() as resources:
            ports = AdsPorts(
                events=LeavingSource(ScriptedSource(script)),  # type: ignore[arg-type] # its state is a number
                bidding=past_bidding_ports(settings, self.story.decisions, acked, resources, ManualClock(now_ms)),
                ad_push=self.story.decisions.sink(acked),
                facts=TestingSink(self.story.facts),
                dead_letters=TestingSink(self.story.dead_letters),
            )
            run_epochs(ads.build(settings, ports), EPOCHS[1], store)

    def status(self) -> dict[str, str]:
        return {decision.auction_id: decision.status for decision in self.story.decisions.records}


@pytest.mark.parametrize("crash", [False, True], ids=["straight", "crash"])
def test_flow_with_a_store_built_anew_goes_on_as_if_nothing_had_happened(
    settings: Config, tmp_path: Path, *, crash: bool
) -> None:
    lost = Lost(settings, tmp_path, LONG_AFTER_MS, crash=crash)
    assert rows_without_repeats(lost.story.facts) == expected_rows(lost.oracle)
    decided = Counter(decision.auction_id for decision in lost.story.decisions.records)
    assert decided == Counter(found.auction_id for found in lost.oracle.opportunities)


def test_replay_records_what_is_past_as_expired(settings: Config, tmp_path: Path) -> None:
    lost = Lost(settings, tmp_path, LONG_AFTER_MS)
    assert len(lost.replayed) >= 3
    assert {decision.status for decision in lost.replayed} == {"expired"}
    assert not lost.decided_before & {decision.auction_id for decision in lost.replayed}
    assert "won" in {lost.status()[auction_id] for auction_id in lost.decided_before}


def test_replay_leaves_what_is_still_open_to_the_flow(settings: Config, tmp_path: Path) -> None:
    lost = Lost(settings, tmp_path, T0)
    late = {found.auction_id for found in lost.oracle.opportunities if found.expired}
    assert {decision.auction_id for decision in lost.replayed} <= late
    status = lost.status()
    assert {status[found.auction_id] for found in lost.oracle.opportunities if not found.expired} == {"won"}
    # In flight during the replay, auctioned by the flow that went on.
    attempts = {
        outcome.attempt for decision in lost.story.decisions.records for outcome in decision.outcomes if outcome.called
    }
    assert attempts == {1, 2}
