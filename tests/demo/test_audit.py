"""The audit must notice what it is for: each broken promise is planted once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from datastreamx.cli.demo.audit import Evidence, TopicCounts, count_topics, percentile, summarize, violations
from datastreamx.cli.demo.notices import NoticeCounts, Told, count_notices, owed
from datastreamx.cli.demo.run import summary_lines
from datastreamx.model.auction import BidNotice, NoticeUrls, Outcome
from simulator.aggregators.notices import Notice
from simulator.aggregators.stats import Stats
from simulator.fleet.ledger import Latency, Ledger, Pushes
from tests.builders import T0, decision, outcome, winning_ad
from tests.sinks.items import dead_letter

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
    ads=7,
    outcomes={"a": {"won": 7}, "b": {"no_bid": 8}},
    notices=NoticeCounts({"win": 7, "billing": 6}, repeats=0, undelivered={}, missing=0, not_owed=0),
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
        (replace(SOUND, ads=6), "7 ads in the topic, 6 in ad_decisions"),
        (replace(SOUND, topics=replace(SOUND.topics, decided_late=1)), "decided after their deadline"),
        (replace(SOUND, ledger=ledger(pushes=Pushes(after_deadline=2))), "2 reached the box too late"),
        (replace(SOUND, impressions={"total": 5, "matched": 5}), "6 displays reported, 5 rows"),
        (replace(SOUND, impressions={"total": 6, "matched": 4}), "2 without a decision"),
        (replace(SOUND, outcomes={"a": {"won": 7}}), "aggregators with outcomes"),
        (replace(SOUND, notices=replace(SOUND.notices, repeats=1)), "1 were accepted twice"),
        (replace(SOUND, notices=replace(SOUND.notices, missing=2)), "2 neither accepted nor a dead letter"),
        (replace(SOUND, notices=replace(SOUND.notices, not_owed=3)), "3 were sent that nobody was owed"),
    ],
)
def test_broken_promise_is_named(planted: Evidence, found: str) -> None:
    assert any(found in violation for violation in violations(planted))
    assert summarize(planted).violations


def test_every_ad_of_a_break_is_a_push_of_its_own() -> None:
    ads = tuple(winning_ad(place=place) for place in range(3))
    first, second = decision(ads=ads), decision(ads=ads[1:2], auction_id="b" * 32)
    late = decision(ads=(winning_ad("c", 0), winning_ad("c", 1)), auction_id="c", decided_ms=T0 + 9_000)
    assert count_topics([first, late, decision(auction_id="d")], []) == TopicCounts(3, 3, 5, 5, 2, {})
    assert count_topics([first, second], []) == TopicCounts(2, 2, 4, 3, 0, {}), "one ad was pushed twice"
    assert count_topics([first, first], []) == TopicCounts(2, 1, 6, 3, 0, {})


def test_dead_letter_that_was_written_twice_counts_once() -> None:
    letters = [dead_letter(1), dead_letter(2, reason="invalid"), dead_letter(1)]
    assert count_topics([], letters).dead_letters == {"malformed": 1, "invalid": 1}


def test_win_loss_and_billing_are_owed_to_who_asked_for_them() -> None:
    ads = (winning_ad(place=0), winning_ad(place=1))
    asks = NoticeUrls(win="w", loss="l", billing="b")
    bids = (
        BidNotice(bid_id="bid-0", code=Outcome.WON, price_micros=1, urls=asks, push_id=ads[0].push_id),
        BidNotice(bid_id="bid-1", code=Outcome.WON, price_micros=1, urls=asks, push_id=ads[1].push_id),
        BidNotice(bid_id="bid-2", code=Outcome.OUTBID, price_micros=1, urls=asks),
        BidNotice(bid_id="bid-3", code=Outcome.OUTBID, price_micros=1, urls=NoticeUrls(win="w", billing="b")),
    )
    told = decision(outcome("alpha", Outcome.WON, notices=bids), ads=ads)
    assert {found.removeprefix("a" * 32 + "/") for found in owed([told, told], frozenset({ads[1].push_id}))} == {
        "win/alpha/bid-0",
        "win/alpha/bid-1",
        "billing/alpha/bid-1",
        "loss/alpha/bid-2",
    }


def test_owed_notices_are_accepted_or_dead_letters_or_missing() -> None:
    told = Told(
        {"alpha": Stats(notices={"win": 3}, notice_repeats=1), "beta": Stats(notices={"loss": 1})},
        {"alpha": [Notice("win", "x", "1", "2.5", count=2), Notice("win", "x", "2", "2.5")], "beta": []},
    )
    letters = [
        msgspec.structs.replace(dead_letter(1), reason="notice_unconfirmed", key=b"x/win/alpha/2"),
        msgspec.structs.replace(dead_letter(1), reason="notice_unconfirmed", key=b"x/win/alpha/2"),
        dead_letter(2),
    ]
    wanted = ["x/win/alpha/1", "x/win/alpha/2", "x/loss/beta/1"]
    counts = count_notices(wanted, told, letters)
    assert counts == NoticeCounts({"loss": 1, "win": 3}, 1, {"notice_unconfirmed": 1}, missing=1, not_owed=0)
    assert count_notices(wanted[1:], told, letters).not_owed == 1
    assert count_topics([], letters).dead_letters == {"malformed": 1}


def test_percentile_is_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99), percentile([], 50)) == (50.0, 99.0, None)


def test_summary_for_a_person_names_every_broken_promise() -> None:
    sound = summary_lines(summarize(SOUND))
    assert sound[0].startswith("events      produced 100")
    assert sound[-1] == "every promise held"
    broken = summary_lines(summarize(replace(SOUND, events={**SOUND.events, "total": 99})))
    assert broken[broken.index("BROKEN PROMISES") + 1].startswith("  - ")
