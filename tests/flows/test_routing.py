from __future__ import annotations

from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main

from datastreamx.config import TopicsConfig
from datastreamx.model.auction import Outcome
from datastreamx.model.log import LogBatch, Tick
from datastreamx.tables import TABLES
from datastreamx.wire.facts import FactBatch
from operators.bidding.auction import undecided
from operators.decisions.step import DecisionBatch, DecisionsLogic
from operators.impressions.step import ImpressionBatch
from operators.land import land
from operators.split import split_log
from tests.builders import opportunity
from tests.operators.test_decisions import log, won

TOPICS = TopicsConfig(facts="facts.v2", decisions="decisions.v2")


def batch(topic: str, partition: int) -> LogBatch:
    return LogBatch(topic, partition, [0], [0], [b""], [[]])


def split(*items: LogBatch | Tick) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"facts": [], "decisions": [], "ticks": []}
    flow = Dataflow("routing")
    streams = split_log("log", op.input("in", flow, TestingSource(items)), TOPICS)
    op.output("facts", streams.facts, TestingSink(found["facts"]))
    op.output("decisions", streams.decisions, TestingSink(found["decisions"]))
    op.output("ticks", streams.ticks, TestingSink(found["ticks"]))
    run_main(flow)
    return found


def test_topics_part_and_facts_and_decisions_of_a_partition_share_a_key() -> None:
    facts, decisions = batch("facts.v2", 7), batch("decisions.v2", 7)
    assert split(facts, decisions, batch("facts.v2", 12)) == {
        "facts": [("p007", facts), ("p012", batch("facts.v2", 12))],
        "decisions": [("p007", decisions)],
        "ticks": [],
    }


def test_each_tick_passes_once() -> None:
    assert split(Tick(), batch("facts.v2", 0), Tick())["ticks"] == [Tick(), Tick()]


def test_records_of_another_topic_are_neither_facts_nor_decisions() -> None:
    assert split(batch("box-facts", 0)) == {"facts": [], "decisions": [], "ticks": []}


def landed(**streams: list[Any]) -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    flow = Dataflow("landing")
    names = ("facts", "decisions", "impressions", "rollups", "ticks")
    ups: list[Any] = [op.input(name, flow, TestingSource(streams.get(name, []))) for name in names]
    op.output("out", land("land", *ups), TestingSink(out))
    run_main(flow)
    return out


def test_every_table_gets_every_tick() -> None:
    """A table without ticks would never show a row again."""
    out = landed(ticks=[Tick(), Tick()])
    assert sorted(table for table, _ in out) == sorted([*TABLES, *TABLES])
    assert all(item == Tick() for _, item in out)


def test_facts_land_in_the_table_that_they_name() -> None:
    facts: Any = [("p000", FactBatch(name, 0, 0, name)) for name in ("box_events", "viewing_sessions")]
    assert landed(facts=facts) == [("box_events", "box_events"), ("viewing_sessions", "viewing_sessions")]


def test_decisions_land_in_their_tables_and_impressions_and_rollups_in_theirs() -> None:
    (decided,), _ = DecisionsLogic(None).on_batch([log(won(1))])
    without_bids, _ = DecisionsLogic(None).on_batch([log(undecided(opportunity(), Outcome.SHED, (), 0))])
    impressions: Any = ImpressionBatch([], "impression rows")
    items: list[tuple[str, DecisionBatch]] = [("p000", decided), *(("p000", found) for found in without_bids)]
    out = landed(decisions=items, impressions=[("p000", impressions)], rollups=[("p000", "rollup rows")])
    assert sorted(table for table, _ in out) == [
        "ad_decisions",
        "ad_decisions",
        "bids",
        "impressions",
        "minute_rollups",
    ]
    assert dict(out)["bids"] is decided.rows["bids"]
    assert dict(out)["impressions"] == "impression rows"
    assert dict(out)["minute_rollups"] == "rollup rows"
