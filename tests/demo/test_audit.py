"""The audit must notice what it is for: each broken promise is planted once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from datastreamx.cli.demo.audit import Evidence, TopicCounts, percentile, summarize, violations
from simulator.fleet.ledger import Latency, Ledger, Pushes

NO_LATENCY = Latency(samples=0, p50_ms=None, p90_ms=None, p99_ms=None, max_ms=None)

LEDGER = Ledger(
    finished=True,
    seed=1,
    boxes=10,
    boxes_on=5,
    speed_up=1.0,
    started_ms=0,
    updated_ms=1,
    events=100,
    events_by_type={"tune": 100},
    faults={},
    expected_rows=100,
    expected_late=0,
    expected_dropped=0,
    expected_dead_letters={"malformed": 2},
    partitions={},
    records_waiting=0,
    records_sent_again=0,
    slipped_ms=0,
    displays_reported=6,
    pushes=Pushes(received=7, distinct=7, displayed=7),
    event_to_push_ms=NO_LATENCY,
    event_to_push_without_auction_ms=NO_LATENCY,
)

SOUND = Evidence(
    ledger=LEDGER,
    topics=TopicCounts(8, 8, 7, 7, 0, {"malformed": 2}),
    tables={"box_events": 100, "ad_decisions": 8, "bids": 16, "impressions": 6},
    duplicates={"box_events": 0, "bids": 0},
    events={"total": 100, "distinct_events": 100, "late": 0},
    auctions={"won": 7, "no_bid": 1},
    outcomes={"a": {"won": 7}, "b": {"no_bid": 8}},
    auction_latency_ms={"p50": 1.0, "p99": 2.0},
    flow_latency_ms={"p50": 1.0, "p99": 2.0},
    impressions={"total": 6, "matched": 6},
    row_ages_s=[1.0],
    first_s={},
    aggregators=("a", "b"),
    restarts={"ads": 0},
)


def ledger(**changes: Any) -> Ledger:
    return msgspec.structs.replace(LEDGER, **changes)


def test_sound_evidence_breaks_no_promise() -> None:
    assert violations(SOUND) == []


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        (replace(SOUND, ledger=ledger(finished=False)), "not final"),
        (
            replace(SOUND, ledger=ledger(expected_rows=0), events={"total": 0, "distinct_events": 0, "late": 0}),
            "nothing",
        ),
        (replace(SOUND, events={"total": 99, "distinct_events": 99, "late": 0}), "100 expected, 99"),
        (replace(SOUND, events={"total": 101, "distinct_events": 100, "late": 0}), "1 duplicated"),
        (replace(SOUND, topics=replace(SOUND.topics, dead_letters={"malformed": 1})), "dead letters"),
        (replace(SOUND, duplicates={"bids": 1}), "duplicate rows"),
        (replace(SOUND, topics=replace(SOUND.topics, decisions=9)), "9 records for 8 auctions"),
        (replace(SOUND, tables={**SOUND.tables, "ad_decisions": 7}), "8 in the topic, 7 rows"),
        (replace(SOUND, tables={**SOUND.tables, "bids": 15}), "bids: 15 rows"),
        (replace(SOUND, topics=replace(SOUND.topics, pushes=8)), "pushes: 1 duplicated"),
        (replace(SOUND, topics=replace(SOUND.topics, decided_late=1)), "decided after their deadline"),
        (replace(SOUND, ledger=ledger(pushes=Pushes(after_deadline=2))), "2 reached the box too late"),
        (replace(SOUND, impressions={"total": 5, "matched": 5}), "6 displays reported, 5 rows"),
        (replace(SOUND, impressions={"total": 6, "matched": 4}), "2 without a decision"),
        (replace(SOUND, outcomes={"a": {"won": 7}}), "aggregators with outcomes"),
    ],
)
def test_broken_promise_is_named(planted: Evidence, found: str) -> None:
    assert any(found in violation for violation in violations(planted))
    assert summarize(planted).violations


def test_percentile_is_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99), percentile([], 50)) == (50.0, 99.0, None)
