"""The ads flow from chunks to topics, through crashes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bytewax.recovery import init_db_dir
from bytewax.testing import TestingSink

from datastreamx.acks import AckedOffsets
from datastreamx.clock import ManualClock
from datastreamx.config import Config
from datastreamx.model.chunk import DeadLetter
from datastreamx.model.facts import Facts
from datastreamx.model.keygroup import KeyGroup
from datastreamx.tables import FACT_TABLES, record_batch
from datastreamx.wire.facts import in_columns
from flows import ads
from flows.ports.ads import AdsPorts, live_bidding_ports
from operators.repeats.marks import HighWaterMarks
from operators.viewing.kernel import SEQ_WINDOW
from tests.builders import T0
from tests.flows.doubles import DecisionTopic, Script, ScriptedSource, bidder, run_epochs
from tests.flows.logs import Oracle, cut, draw_logs, oracle_of, story_config

SEED = 20_240_917
EPOCHS = [timedelta(0), timedelta(milliseconds=5), timedelta(hours=1)]
"""A snapshot after every item, now and then, and never before the end: then each crash repeats everything."""


@pytest.fixture(scope="module")
def bid_url() -> Iterator[str]:
    with bidder() as url:
        yield url


class Story:
    """Topics that survive crashes, and one process after the other that writes to them."""

    def __init__(self, settings: Config) -> None:
        self.settings = settings
        self.facts: list[tuple[str, Facts]] = []
        self.dead_letters: list[tuple[str, DeadLetter]] = []
        self.decisions = DecisionTopic()

    def run(self, script: Script, epoch: timedelta, store: Path) -> None:
        """One process: all that it knows of earlier ones is in the store and in the topics."""
        acked = AckedOffsets()
        with ExitStack() as resources:
            # The clock stands still, so that no auction is late however slow the machine is.
            bidding = live_bidding_ports(self.settings, self.decisions, acked, resources, ManualClock(T0))
            ports = AdsPorts(
                events=ScriptedSource(script),
                bidding=bidding,
                ad_push=self.decisions.sink(acked),
                facts=TestingSink(self.facts),
                dead_letters=TestingSink(self.dead_letters),
            )
            run_epochs(ads.build(self.settings, ports), epoch, store)


def tell(settings: Config, items: list[Any], places: tuple[int, ...], epoch: timedelta, store: Path) -> Story:
    init_db_dir(store, 1)
    story = Story(settings)
    script = Script(items, *places)
    for _ in range(len(places) + 1):
        story.run(script, epoch, store)
    assert not script.crashes
    return story


def rows_without_repeats(facts: list[tuple[str, Facts]]) -> dict[tuple[KeyGroup, str], list[dict[str, Any]]]:
    marks: defaultdict[int, HighWaterMarks] = defaultdict(HighWaterMarks)
    found: defaultdict[tuple[KeyGroup, str], list[dict[str, Any]]] = defaultdict(list)
    for _, pieces in facts:
        batch = in_columns([pieces])
        fresh = marks[batch.partition].fresh(batch)
        if fresh:
            found[KeyGroup(batch.partition, batch.group), batch.table] += fresh.rows.to_pylist()
    return found


def expected_rows(oracle: Oracle) -> dict[tuple[KeyGroup, str], list[dict[str, Any]]]:
    return {
        (group, table): record_batch(FACT_TABLES[table], rows).to_pylist()
        for (group, table), rows in oracle.rows.items()
        if rows
    }


@pytest.fixture
def settings(bid_url: str) -> Config:
    made = story_config("[auction]\ntimeout_ms = 5000\npush_reserve_ms = 300")
    (aggregator,) = made.aggregators
    return msgspec.structs.replace(made, aggregators=(msgspec.structs.replace(aggregator, url=bid_url),))


@pytest.mark.parametrize("epoch", EPOCHS, ids=str)
def test_crash_story_ends_as_if_nothing_had_happened(settings: Config, epoch: timedelta, tmp_path: Path) -> None:
    logs = draw_logs(SEED, records=250)
    oracle = oracle_of(logs, settings)
    items = cut(logs, SEED)
    third = len(items) // 3
    story = tell(settings, items, (third, third + 2, 2 * third), epoch, tmp_path)

    assert rows_without_repeats(story.facts) == expected_rows(oracle)
    decided = Counter(decision.auction_id for decision in story.decisions.records)
    assert decided == Counter(found.auction_id for found in oracle.opportunities)
    letters = {(letter.partition, letter.offset) for _, letter in story.dead_letters}
    assert letters == oracle.dead_letters


def test_story_holds_what_it_is_about(settings: Config) -> None:
    """Every assertion of the crash story would hold for an empty log, too."""
    oracle = oracle_of(draw_logs(SEED, records=250), settings)
    statuses = Counter(found.expired for found in oracle.opportunities)
    assert min(statuses[True], statuses[False]) >= 3
    assert {found.trigger for found in oracle.opportunities} == {"dwell", "ad_break"}
    assert len(oracle.rows) == 8
    assert sum(len(rows) for (_, table), rows in oracle.rows.items() if table == "viewing_sessions") >= 3
    assert any(row[7] for (_, table), rows in oracle.rows.items() if table == "box_events" for row in rows)
    assert len(oracle.dead_letters) >= 3
    # A snapshot must hold whatever a box can remember, not only what the first minutes fill.
    seqs = [int(str(row[4])) for (_, table), rows in oracle.rows.items() if table == "box_events" for row in rows]
    assert max(seqs) > SEQ_WINDOW


def test_decision_says_what_the_opportunity_said_and_who_won(settings: Config, tmp_path: Path) -> None:
    logs = draw_logs(SEED, records=120)
    oracle = oracle_of(logs, settings)
    story = tell(settings, cut(logs, SEED), (), EPOCHS[0], tmp_path)
    opportunities = {found.auction_id: found for found in oracle.opportunities}
    for decision in story.decisions.records:
        found = opportunities[decision.auction_id]
        shared = set(decision.__struct_fields__) & set(found.__struct_fields__)
        assert {name: getattr(decision, name) for name in shared} == {name: getattr(found, name) for name in shared}
        assert decision.status == ("expired" if found.expired else "won")
        assert (decision.push_id is None) == (not decision.ads) == found.expired


def test_chunks_of_another_size_change_no_fact_and_no_opportunity(settings: Config, tmp_path: Path) -> None:
    logs = draw_logs(SEED + 1, records=120)
    stories = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        stories.append(tell(settings, cut(logs, seed), (), EPOCHS[2], tmp_path / str(seed)))
    one, other = stories
    assert rows_without_repeats(one.facts) == rows_without_repeats(other.facts)
    assert {d.auction_id for d in one.decisions.records} == {d.auction_id for d in other.decisions.records}
