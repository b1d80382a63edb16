from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastreamx import metrics
from datastreamx.errors import CrashError, StateMismatchError
from datastreamx.model.auction import BidNotice, Decision, LateBid, NoticeUrls, Outcome
from datastreamx.model.log import LogBatch
from datastreamx.snapshots import seal, unseal
from datastreamx.tables import AD_DECISIONS, BIDS, LATE_BIDS
from datastreamx.wire.decisions import encode_decision
from operators.decisions.firsts import MEMORY_MS, FirstWins
from operators.decisions.step import DecisionBatch, DecisionsLogic
from tests.builders import T0, decision, outcome, winning_ad

GOLDEN = Path(__file__).parent / "golden" / "decisions-snapshot-v2.msgpack"


def won(number: int = 0, *, decided_ms: int = T0 + 100, ad: str = "ad-1", **changes: Any) -> Decision:
    """Won by alpha; beta was asked, too, and gave no answer."""
    auction_id = f"{number:032x}"
    fields: dict[str, Any] = {"ads": (winning_ad(auction_id, ad_id=ad),), "queue_us": 11, "auction_us": 22}
    return decision(
        outcome(
            "alpha",
            Outcome.WON,
            tmax_ms=300,
            latency_us=80_000,
            http_status=200,
            response_bytes=99,
            bids=1,
            ads_won=1,
            bid_id="bid-0",
            price_micros=2_500_000,
            currency="USD",
            ad_id=ad,
        ),
        outcome("beta", Outcome.TIMEOUT, tmax_ms=300, latency_us=300_001),
        auction_id=auction_id,
        decided_ms=decided_ms,
        **{**fields, **changes},
    )


def undecided(reason: Outcome, *aggregators: str, **changes: Any) -> Decision:
    """Nobody was asked."""
    outcomes = [outcome(name, reason, called=False) for name in aggregators]
    return decision(*outcomes, status="expired" if reason is Outcome.EXPIRED else "shed", **changes)


def late(number: int, aggregator: str = "beta", **changes: Any) -> LateBid:
    fields: dict[str, Any] = {
        "auction_id": f"{number:032x}",
        "aggregator": aggregator,
        "channel_id": "ch9",
        "decided_ms": T0 + 50,
        "latency_us": 412_000,
        "price_micros": 3_000_000,
        "would_have_won": True,
    }
    return LateBid(**{**fields, **changes})


def log(*decisions: Decision, first_offset: int = 0) -> LogBatch:
    offsets = [first_offset + index for index in range(len(decisions))]
    values = [encode_decision(one) for one in decisions]
    return LogBatch("ad-decisions", 0, offsets, [T0] * len(offsets), values, [[]] * len(offsets))


def read(logic: DecisionsLogic, *batches: LogBatch) -> DecisionBatch:
    (out,), _ = logic.on_batch(list(batches))
    return out


def rows(batch: DecisionBatch, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = batch.rows[table].to_pylist()
    return found


def test_first_record_of_an_auction_wins_within_and_across_batches() -> None:
    logic = DecisionsLogic(None)
    counter = metrics.WAREHOUSE_REPEATS_DROPPED.labels("ad_decisions")
    before = counter._value.get()
    first = read(logic, log(won(1, ad="a"), won(1, ad="b"), won(2)), log(won(2), won(3), first_offset=3))
    assert [row["ad_id"] for row in rows(first, "ad_decisions")] == ["a", "ad-1", "ad-1"]
    assert [row["log_offset"] for row in rows(first, "ad_decisions")] == [0, 2, 4]
    later = read(logic, log(won(3), won(4), first_offset=5))
    assert [one.auction_id for one in later.decisions] == [f"{4:032x}"]
    assert counter._value.get() == before + 3


def test_batch_of_repeats_alone_emits_nothing() -> None:
    logic = DecisionsLogic(None)
    read(logic, log(won(1)))
    assert logic.on_batch([log(won(1))])[0] == []


def test_winning_decision_fills_its_rows() -> None:
    batch = read(DecisionsLogic(None), log(won(7, last_ad_id=None, explored=True), first_offset=40))
    (row,) = rows(batch, "ad_decisions")
    assert set(row) == {column.name for column in AD_DECISIONS.columns}
    assert row["decided_time"].timestamp() * 1000 == T0 + 100
    assert row["deadline_time"].timestamp() * 1000 == T0 + 2_000
    assert (row["status"], row["aggregator"], row["ad_id"]) == ("won", "alpha", "ad-1")
    assert (row["price_micros"], row["currency"]) == (2_500_000, "USD")
    assert row["push_id"] == f"push-{7:032x}"
    assert (row["queue_us"], row["auction_us"]) == (11, 22)
    assert (row["log_partition"], row["log_offset"]) == (0, 40)
    assert (row["explored"], row["history_allowed"]) == (True, False)
    assert (row["ads"], row["break_ads"]) == (1, None)
    assert msgspec.json.decode(row["candidates"]) == [
        {"aggregator": "alpha", "called": True, "propensity": 1.0},
        {"aggregator": "beta", "called": True, "propensity": 1.0},
    ]


def test_break_of_several_ads_is_one_row_with_their_sum_and_each_of_them() -> None:
    ads = (
        winning_ad("b", 0, ad_id="ad-1", duration_ms=15_000, advertiser_domain="example.com"),
        winning_ad("b", 1, ad_id="ad-2", aggregator="beta", price_micros=1_000_000, creative_url="https://x/?box=k"),
    )
    batch = read(DecisionsLogic(None), log(won(7, ads=ads, push_id=ads[0].push_id, history_allowed=True)))
    (row,) = rows(batch, "ad_decisions")
    assert (row["ads"], row["price_micros"], row["currency"]) == (2, 3_500_000, "USD")
    assert (row["push_id"], row["aggregator"], row["ad_id"]) == ("push-b", "alpha", "ad-1")
    assert row["history_allowed"] is True
    assert msgspec.json.decode(row["break_ads"]) == [
        {
            "push_id": "push-b",
            "aggregator": "alpha",
            "bid_id": "bid-0",
            "ad_id": "ad-1",
            "price_micros": 2_500_000,
            "duration_ms": 15_000,
            "advertiser_domain": "example.com",
        },
        {
            "push_id": "push-b-1",
            "aggregator": "beta",
            "bid_id": "bid-1",
            "ad_id": "ad-2",
            "price_micros": 1_000_000,
            "duration_ms": None,
            "advertiser_domain": None,
        },
    ]


def test_every_aggregator_has_a_row_with_its_outcome() -> None:
    batch = read(DecisionsLogic(None), log(won(7)))
    bids = rows(batch, "bids")
    assert set(bids[0]) == {column.name for column in BIDS.columns}
    assert [(row["aggregator"], row["outcome"], row["outcome_code"]) for row in bids] == [
        ("alpha", "won", 500),
        ("beta", "timeout", 101),
    ]
    assert [row["price_micros"] for row in bids] == [2_500_000, None]
    assert [row["latency_us"] for row in bids] == [80_000, 300_001]
    assert [(row["bids"], row["ads_won"]) for row in bids] == [(1, 1), (0, 0)]


def test_bid_row_tells_phases_of_the_call_and_origin_of_the_price() -> None:
    told: dict[str, Any] = {
        "queue_us": 1,
        "dns_us": 2,
        "connect_us": 3,
        "first_byte_us": 4,
        "connection_reused": False,
        "bids": 5,
        "ads_won": 2,
        "offered_micros": 6,
        "offered_currency": "EUR",
        "rate_id": "2023-11-14",
        "floor_micros": 7,
        "advertiser_domain": "example.com",
        "no_bid_reason": 8,
    }
    (row,) = rows(read(DecisionsLogic(None), log(decision(outcome("alpha", Outcome.WON, **told)))), "bids")
    assert {name: row[name] for name in told} == told


@pytest.mark.parametrize(
    ("code", "urls", "due"),
    [
        (Outcome.WON, NoticeUrls(win="w", loss="l", billing="b"), "win,billing"),
        (Outcome.WON, NoticeUrls(billing="b"), "billing"),
        (Outcome.WON, NoticeUrls(loss="l"), None),
        (Outcome.OUTBID, NoticeUrls(win="w", loss="l", billing="b"), "loss"),
        (Outcome.BELOW_FLOOR, NoticeUrls(win="w"), None),
    ],
)
def test_bid_row_names_the_notices_that_are_due_without_their_addresses(
    code: Outcome, urls: NoticeUrls, due: str | None
) -> None:
    notice = BidNotice(bid_id="1", code=code, price_micros=1, urls=urls)
    (row,) = rows(read(DecisionsLogic(None), log(decision(outcome("alpha", code, notices=(notice,))))), "bids")
    assert row["notices"] == due


def test_late_answer_becomes_a_row_placed_where_it_was_logged() -> None:
    told = (late(3), late(3, "gamma", price_micros=None, would_have_won=False))
    batch = read(DecisionsLogic(None), log(won(7), won(8, late=told), first_offset=40))
    found = rows(batch, "late_bids")
    assert set(found[0]) == {column.name for column in LATE_BIDS.columns}
    assert [(row["auction_id"], row["aggregator"], row["price_micros"], row["would_have_won"]) for row in found] == [
        (f"{3:032x}", "beta", 3_000_000, True),
        (f"{3:032x}", "gamma", None, False),
    ]
    assert found[0]["decided_time"].timestamp() * 1000 == T0 + 50
    assert (found[0]["channel_id"], found[0]["latency_us"]) == ("ch9", 412_000)
    assert (found[0]["log_partition"], found[0]["log_offset"]) == (0, 41)


def test_late_answer_is_told_once_however_often_its_auction_was_issued() -> None:
    logic = DecisionsLogic(None)
    first = read(logic, log(won(1, late=(late(9),)), won(2, late=(late(9, latency_us=1), late(9, "gamma")))))
    assert [(row["aggregator"], row["latency_us"]) for row in rows(first, "late_bids")] == [
        ("beta", 412_000),
        ("gamma", 412_000),
    ]
    resumed = DecisionsLogic(logic.snapshot())
    assert "late_bids" not in read(resumed, log(won(3, late=(late(9),)))).rows


def test_late_answer_does_not_stand_for_the_decision_of_its_auction() -> None:
    batch = read(DecisionsLogic(None), log(won(1, late=(late(2),)), won(2)))
    assert [one.auction_id for one in batch.decisions] == [f"{1:032x}", f"{2:032x}"]


def test_decision_without_an_ad_has_rows_without_one() -> None:
    batch = read(DecisionsLogic(None), log(undecided(Outcome.SHED, "alpha")))
    (row,), (bid,) = rows(batch, "ad_decisions"), rows(batch, "bids")
    names = ("push_id", "aggregator", "ad_id", "price_micros", "queue_us", "break_ads")
    assert [row[name] for name in names] == [None] * 6
    assert row["ads"] == 0
    assert (bid["outcome"], bid["called"], bid["latency_us"]) == ("shed", False, None)


def test_decision_that_nobody_was_a_candidate_for_has_no_bids() -> None:
    batch = read(DecisionsLogic(None), log(undecided(Outcome.SHED)))
    assert set(batch.rows) == {"ad_decisions"}


def test_rows_match_the_schemas_of_their_tables() -> None:
    told = (won(1, late=(late(9), late(8, price_micros=None))), undecided(Outcome.EXPIRED, "alpha"))
    batch = read(DecisionsLogic(None), log(*told))
    for table in (AD_DECISIONS, BIDS, LATE_BIDS):
        assert batch.rows[table.name].schema == table.arrow_schema
        for column in table.columns:
            assert not (column.required and batch.rows[table.name].column(column.name).null_count), column.name


def test_foreign_record_stops_the_flow() -> None:
    with pytest.raises(CrashError, match="no decision"):
        DecisionsLogic(None).on_batch([LogBatch("ad-decisions", 0, [0], [T0], [b"{}"], [[]])])


def remembered(firsts: FirstWins) -> int:
    return len(msgspec.msgpack.decode(unseal(firsts.snapshot(), "firsts"))[2])


def test_memory_is_bounded_by_time() -> None:
    firsts = FirstWins()
    per_second = 20
    for number in range(600 * per_second):
        assert firsts.is_first(f"{number}", T0 + number * 1000 // per_second)
    kept_at_most = (MEMORY_MS + MEMORY_MS // 4) // 1000 * per_second
    assert MEMORY_MS // 1000 * per_second <= remembered(firsts) <= kept_at_most


def test_decision_is_remembered_for_the_whole_time() -> None:
    firsts = FirstWins()
    firsts.is_first("a", T0)
    for at_ms in range(0, MEMORY_MS, 1_000):
        firsts.is_first(f"{at_ms}", T0 + at_ms)
    assert not firsts.is_first("a", T0)


def test_decision_about_a_moment_long_ago_is_remembered_like_any_other() -> None:
    """A box that reports hours late has its opportunities decided (expired) among those of the present."""
    logic = DecisionsLogic(None)
    stale = won(1, opportunity_ms=T0 - 7_200_000, deadline_ms=T0 - 7_198_000)
    read(logic, log(won(0)), log(stale), log(won(2, decided_ms=T0 + 40_000)))
    assert logic.on_batch([log(stale)])[0] == []


_RECORDS = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 3 * MEMORY_MS)), max_size=40)


@settings(max_examples=200, deadline=None)
@given(_RECORDS, st.sets(st.integers(0, 40)))
def test_snapshot_and_resume_anywhere_changes_nothing(found: list[tuple[int, int]], resumes: set[int]) -> None:
    whole, resumed = FirstWins(), FirstWins()
    for index, (number, at_ms) in enumerate(found):
        if index in resumes:
            resumed = FirstWins(resumed.snapshot())
        assert resumed.is_first(f"{number}", T0 + at_ms) == whole.is_first(f"{number}", T0 + at_ms)
    assert resumed.snapshot() == whole.snapshot()


def test_snapshot_bytes_are_an_interface() -> None:
    """A change here means that running deployments cannot resume: raise VERSION and keep a reader for the old one."""
    firsts = FirstWins()
    firsts.is_first("a" * 32, T0)
    firsts.is_first("b" * 32, T0 + 5)
    assert firsts.snapshot() == GOLDEN.read_bytes()
    restored = FirstWins(GOLDEN.read_bytes())
    assert not restored.is_first("a" * 32, T0)
    assert restored.snapshot() == GOLDEN.read_bytes()


def test_snapshot_of_another_version_is_refused() -> None:
    with pytest.raises(StateMismatchError, match="version 1"):
        FirstWins(seal(msgspec.msgpack.encode([1, 0, {}])))


@pytest.mark.parametrize("damage", [b"", *map(seal, [b"", b"\x00", b"\x93\x02"])])
def test_bytes_that_are_no_snapshot_are_refused(damage: bytes) -> None:
    with pytest.raises(StateMismatchError):
        FirstWins(damage)
