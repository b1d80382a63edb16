from __future__ import annotations

from typing import Any

import pytest

from datastreamx.config import AuctionConfig
from datastreamx.model.auction import Bid, Decision, Outcome
from operators.bidding.auction import CallResult, bid_request, decide, time_for_calls_ms, undecided, withdraw
from tests.builders import T0, opportunity

CONFIG = AuctionConfig(timeout_ms=300, push_reserve_ms=200, min_call_ms=30, floor_micros=1_000_000, currency="USD")


def bid(price_micros: int, **changes: Any) -> Bid:
    fields: dict[str, Any] = {"bid_id": "b1", "price_micros": price_micros, "currency": "USD", "ad_id": "ad-1"}
    return Bid(**{**fields, **changes})


def answered(aggregator: str, *bids: Bid) -> CallResult:
    return CallResult(aggregator=aggregator, called=True, bids=bids, latency_us=1_000, http_status=200)


def auction(*results: CallResult, auction_id: str = "a" * 32) -> Decision:
    found = opportunity(auction_id=auction_id)
    return decide(found, results, CONFIG, attempt=1, now_ms=T0 + 100, queue_us=1, auction_us=2)


def codes(decision: Decision) -> dict[str, Outcome]:
    return {outcome.aggregator: outcome.code for outcome in decision.outcomes}


def test_highest_price_wins_and_pays_its_own_bid() -> None:
    decision = auction(answered("a", bid(2_000_000)), answered("b", bid(3_000_000)), answered("c"))
    assert decision.status == "won"
    assert decision.winner is not None
    assert (decision.winner.aggregator, decision.winner.price_micros) == ("b", 3_000_000)
    assert codes(decision) == {"a": Outcome.OUTBID, "b": Outcome.WON, "c": Outcome.NO_BID}
    assert decision.push_id == f"push-{'a' * 32}"


def test_without_a_valid_bid_there_is_no_push() -> None:
    decision = auction(answered("a"), CallResult(aggregator="b", called=True, failure=Outcome.TIMEOUT))
    assert (decision.status, decision.winner, decision.push_id) == ("no_bid", None, None)
    assert codes(decision) == {"a": Outcome.NO_BID, "b": Outcome.TIMEOUT}


@pytest.mark.parametrize(
    ("offer", "code"),
    [
        (bid(999_999), Outcome.BELOW_FLOOR),
        (bid(5_000_000, currency="EUR"), Outcome.CURRENCY),
        (bid(0), Outcome.INVALID_RESPONSE),
        (bid(-5), Outcome.INVALID_RESPONSE),
        (bid(5_000_000, duration_ms=30_001), Outcome.CREATIVE_REJECTED),
    ],
)
def test_bid_that_may_not_win_gets_its_reason(offer: Bid, code: Outcome) -> None:
    decision = auction(answered("a", offer), answered("b", bid(1_000_000)))
    assert codes(decision) == {"a": code, "b": Outcome.WON}
    assert decision.outcomes[0].detail


def test_second_best_bid_of_an_aggregator_stands_in_for_an_invalid_one() -> None:
    decision = auction(answered("a", bid(9_000_000, currency="EUR", bid_id="x"), bid(2_000_000, bid_id="y")))
    assert decision.winner is not None
    assert decision.winner.bid_id == "y"


def test_tie_is_settled_by_the_auction_id_and_not_by_the_order_of_aggregators() -> None:
    names = ("a", "b", "c")
    winners = set()
    for number in range(50):
        results = [answered(name, bid(2_000_000)) for name in names]
        forward = auction(*results, auction_id=f"{number:032x}")
        backward = auction(*reversed(results), auction_id=f"{number:032x}")
        assert forward.winner is not None
        assert backward.winner is not None
        assert forward.winner.aggregator == backward.winner.aggregator
        winners.add(forward.winner.aggregator)
    assert winners == set(names)


def test_every_aggregator_gets_exactly_one_outcome() -> None:
    decision = auction(
        answered("a", bid(1), bid(2_000_000), bid(3_000_000)),
        CallResult(aggregator="b", called=True, failure=Outcome.UNREACHABLE),
    )
    assert [outcome.aggregator for outcome in decision.outcomes] == ["a", "b"]


def test_time_left_counts_what_the_log_has_cost() -> None:
    found = opportunity(deadline_ms=T0 + 2_000)
    assert time_for_calls_ms(found, T0, CONFIG) == 300
    assert time_for_calls_ms(found, T0 + 1_700, CONFIG) == 100
    assert time_for_calls_ms(found, T0 + 5_000, CONFIG) < CONFIG.min_call_ms


def test_request_never_carries_the_raw_box_id() -> None:
    request = bid_request(opportunity(box_id="stb-secret"), 100, CONFIG)
    assert "stb-secret" not in repr(request)


def test_undecided_names_every_aggregator_uncalled() -> None:
    decision = undecided(opportunity(), Outcome.SHED, ("a", "b"), T0)
    assert decision.status == "shed"
    assert codes(decision) == {"a": Outcome.SHED, "b": Outcome.SHED}
    assert not any(outcome.called for outcome in decision.outcomes)


def test_withdrawn_decision_is_no_push() -> None:
    decision = withdraw(auction(answered("a", bid(2_000_000)), answered("b", bid(1_500_000))), T0 + 9_999)
    assert (decision.status, decision.winner, decision.push_id, decision.decided_ms) == (
        "expired",
        None,
        None,
        T0 + 9_999,
    )
    assert codes(decision) == {"a": Outcome.EXPIRED, "b": Outcome.OUTBID}
