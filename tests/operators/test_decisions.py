from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastreamx import metrics
from datastreamx.config import AuctionConfig
from datastreamx.errors import CrashError, StateMismatchError
from datastreamx.model.auction import Bid, Decision, Outcome
from datastreamx.model.log import LogBatch
from datastreamx.tables import AD_DECISIONS, BIDS
from datastreamx.wire.decisions import encode_decision
from operators.bidding.auction import CallResult, decide, undecided
from operators.decisions.firsts import MEMORY_MS, FirstWins
from operators.decisions.step import DecisionBatch, DecisionsLogic
from tests.builders import T0, opportunity

GOLDEN = Path(__file__).parent / "golden" / "decisions-snapshot-v1.msgpack"
AUCTION = AuctionConfig()


def won(number: int = 0, *, decided_ms: int = T0 + 100, ad: str = "ad-1", **changes: Any) -> Decision:
    results = (
        CallResult(
            aggregator="alpha",
            called=True,
            bids=(Bid(bid_id="bid-1", price_micros=2_500_000, currency="USD", ad_id=ad),),
            tmax_ms=300,
            latency_us=80_000,
            http_status=200,
            response_bytes=99,
        ),
        CallResult(aggregator="beta", called=True, failure=Outcome.TIMEOUT, tmax_ms=300, latency_us=300_001),
    )
    return decide(
        opportunity(auction_id=f"{number:032x}", **changes),
        results,
        AUCTION,
        attempt=1,
        now_ms=decided_ms,
        queue_us=11,
        auction_us=22,
    )


def log(*decisions: Decision, first_offset: int = 0) -> LogBatch:
    offsets = [first_offset + index for index in range(len(decisions))]
    values = [encode_decision(decision) for decision in decisions]
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
    assert [decision.auction_id for decision in later.decisions] == [f"{4:032x}"]
    assert counter._value.get() == before + 3


def test_batch_of_repeats_alone_emits_nothing() -> None:
    logic = DecisionsLogic(None)
    read(logic, log(won(1)))
    assert logic.on_batch([log(won(1))])[0] == []


def test_winning_decision_fills_its_rows() -> None:
    batch = read(DecisionsLogic(None), log(won(7, last_ad_id=None), first_offset=40))
    (decision,) = rows(batch, "ad_decisions")
    assert set(decision) == {column.name for column in AD_DECISIONS.columns}
    assert decision["decided_time"].timestamp() * 1000 == T0 + 100
    assert decision["deadline_time"].timestamp() * 1000 == T0 + 2_000
    assert (decision["status"], decision["aggregator"], decision["ad_id"]) == ("won", "alpha", "ad-1")
    assert (decision["price_micros"], decision["currency"]) == (2_500_000, "USD")
    assert decision["push_id"] == f"push-{7:032x}"
    assert (decision["queue_us"], decision["auction_us"]) == (11, 22)
    assert (decision["log_partition"], decision["log_offset"]) == (0, 40)
    assert msgspec.json.decode(decision["candidates"]) == [
        {"aggregator": "alpha", "called": True, "propensity": 1.0},
        {"aggregator": "beta", "called": True, "propensity": 1.0},
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


def test_decision_without_a_winner_has_rows_without_one() -> None:
    batch = read(DecisionsLogic(None), log(undecided(opportunity(), Outcome.SHED, ("alpha",), T0)))
    (decision,), (bid,) = rows(batch, "ad_decisions"), rows(batch, "bids")
    assert [decision[name] for name in ("push_id", "aggregator", "ad_id", "price_micros", "queue_us")] == [None] * 5
    assert (bid["outcome"], bid["called"], bid["latency_us"]) == ("shed", False, None)


def test_decision_that_nobody_was_a_candidate_for_has_no_bids() -> None:
    batch = read(DecisionsLogic(None), log(undecided(opportunity(), Outcome.SHED, (), T0)))
    assert set(batch.rows) == {"ad_decisions"}


def test_rows_match_the_schemas_of_their_tables() -> None:
    batch = read(DecisionsLogic(None), log(won(1), undecided(opportunity(), Outcome.EXPIRED, ("alpha",), T0)))
    for table in (AD_DECISIONS, BIDS):
        assert batch.rows[table.name].schema == table.arrow_schema
        for column in table.columns:
            assert not (column.required and batch.rows[table.name].column(column.name).null_count), column.name


def test_foreign_record_stops_the_flow() -> None:
    with pytest.raises(CrashError, match="no decision"):
        DecisionsLogic(None).on_batch([LogBatch("ad-decisions", 0, [0], [T0], [b"{}"], [[]])])


def remembered(firsts: FirstWins) -> int:
    return len(msgspec.msgpack.decode(firsts.snapshot())[2])


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
    with pytest.raises(StateMismatchError, match="version 2"):
        FirstWins(msgspec.msgpack.encode([2, 0, {}]))


@pytest.mark.parametrize("damage", [b"", b"\x00", b"\x93\x01"])
def test_bytes_that_are_no_snapshot_are_refused(damage: bytes) -> None:
    with pytest.raises(StateMismatchError):
        FirstWins(damage)
