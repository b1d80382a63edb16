from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datastreamx.clock import ManualClock
from datastreamx.config import AuctionConfig, FloorRule
from datastreamx.errors import CrashError
from datastreamx.model.auction import Bid, NoticeUrls, Outcome
from operators.bidding.auction import MAX_NOTICES, CallResult, undecided, withdraw
from operators.bidding.rates import RateTable
from tests.builders import T0, opportunity
from tests.operators.auctions import CONFIG, SLOT_MS, answered, auction, bid, codes, lot, rules

HOUR_MS = 3_600_000
URLS = NoticeUrls(win="https://t.example/w", loss="https://t.example/l")


def rates(folder: Path, clock: ManualClock) -> RateTable:
    path = folder / "rates.toml"
    path.write_text("as_of = 2023-11-14T00:00:00Z\n[rates]\nEUR = 1.5\nJPY = 0.0000001\n", encoding="utf-8")
    return RateTable(path, "USD", 48, clock)


def test_highest_price_wins_and_pays_its_own_bid() -> None:
    decision = auction(answered("a", bid(2_000_000)), answered("b", bid(3_000_000)), answered("c"))
    (ad,) = decision.ads
    assert decision.status == "won"
    assert (ad.aggregator, ad.price_micros, ad.currency) == ("b", 3_000_000, "USD")
    assert codes(decision) == {"a": Outcome.OUTBID, "b": Outcome.WON, "c": Outcome.NO_BID}
    assert decision.push_id == ad.push_id == f"push-{'a' * 32}"


def test_without_a_valid_bid_there_is_no_push() -> None:
    decision = auction(answered("a"), CallResult(aggregator="b", called=True, failure=Outcome.TIMEOUT))
    assert (decision.status, decision.ads, decision.push_id) == ("no_bid", (), None)
    assert codes(decision) == {"a": Outcome.NO_BID, "b": Outcome.TIMEOUT}


HOSTS = AuctionConfig(
    floor_micros=1_000_000, creative_hosts=("*.cdn.example",), blocked_advertisers=("Casino.example", "bet")
)


@pytest.mark.parametrize(
    ("offer", "code"),
    [
        (bid(999_999), Outcome.BELOW_FLOOR),
        (bid(1_000_000_001), Outcome.INVALID_RESPONSE),
        (bid(5_000_000, currency="EUR"), Outcome.CURRENCY),
        (bid(0), Outcome.INVALID_RESPONSE),
        (bid(-5, currency="EUR"), Outcome.INVALID_RESPONSE),
        (bid(5_000_000, duration_ms=SLOT_MS + 1), Outcome.CREATIVE_REJECTED),
        (bid(5_000_000, duration_ms=0), Outcome.CREATIVE_REJECTED),
        (bid(5_000_000, advertiser_domain="casino.example"), Outcome.ADVERTISER_BLOCKED),
        (bid(5_000_000, advertiser_domain="www.casino.example"), Outcome.ADVERTISER_BLOCKED),
        (bid(5_000_000, advertiser_domain="lucky.bet"), Outcome.ADVERTISER_BLOCKED),
        (bid(5_000_000, creative_url="https://x.example", creative_hosts=("x.example",)), Outcome.CREATIVE_REJECTED),
        (bid(5_000_000, creative_hosts=("a.cdn.example", "x.example")), Outcome.CREATIVE_REJECTED),
        (bid(5_000_000, creative_url="https://a.cdn.example/ad"), Outcome.CREATIVE_REJECTED),
    ],
)
def test_bid_that_may_not_win_gets_its_reason(offer: Bid, code: Outcome) -> None:
    decision = auction(answered("a", offer), answered("b", bid(1_000_000)), by=rules(HOSTS))
    assert codes(decision) == {"a": code, "b": Outcome.WON}
    assert decision.outcomes[0].detail
    assert decision.outcomes[0].bid_id == "b1"


@pytest.mark.parametrize(
    "offer",
    [
        bid(1_000_000),
        bid(1_000_000, duration_ms=SLOT_MS),
        bid(1_000_000, advertiser_domain="notcasino.example"),
        bid(1_000_000, creative_url="https://a.cdn.example/ad", creative_hosts=("a.cdn.example",)),
    ],
)
def test_bid_at_every_limit_wins(offer: Bid) -> None:
    assert codes(auction(answered("a", offer), by=rules(HOSTS))) == {"a": Outcome.WON}


def test_without_a_list_creatives_may_come_from_anywhere() -> None:
    offer = bid(1_000_000, creative_url="https://x.example", creative_hosts=("x.example",))
    assert codes(auction(answered("a", offer))) == {"a": Outcome.WON}


def test_detail_is_bounded_whatever_the_bid_says() -> None:
    decision = auction(answered("a", bid(5_000_000, currency="X" * 10_000)))
    assert len(decision.outcomes[0].detail or "") == 200


def test_each_aggregator_has_its_own_floor() -> None:
    config = AuctionConfig(floor_micros=1, floors=(FloorRule(floor_micros=3_000_000, aggregators=("a",)),))
    decision = auction(answered("a", bid(2_999_999)), answered("b", bid(1)), by=rules(config))
    assert codes(decision) == {"a": Outcome.BELOW_FLOOR, "b": Outcome.WON}
    assert [outcome.floor_micros for outcome in decision.outcomes] == [3_000_000, 1]


def test_price_in_another_currency_is_compared_converted(tmp_path: Path) -> None:
    by = rules(rates=rates(tmp_path, ManualClock()))
    decision = auction(answered("a", bid(2_000_001, currency="EUR")), answered("b", bid(3_000_000)), by=by)
    ad, won = decision.ads[0], decision.outcomes[0]
    assert codes(decision) == {"a": Outcome.WON, "b": Outcome.OUTBID}
    assert (ad.price_micros, ad.currency) == (3_000_001, "USD")
    assert (won.price_micros, won.currency, won.offered_micros, won.offered_currency) == (
        3_000_001,
        "USD",
        2_000_001,
        "EUR",
    )
    assert (won.rate_id or "").startswith("2023-11-14T00:00:00Z-")
    assert decision.outcomes[1].rate_id is None


def test_floor_holds_after_conversion(tmp_path: Path) -> None:
    by = rules(rates=rates(tmp_path, ManualClock()))
    assert codes(auction(answered("a", bid(700_000, currency="EUR")), by=by)) == {"a": Outcome.WON}
    assert codes(auction(answered("a", bid(600_000, currency="EUR")), by=by)) == {"a": Outcome.BELOW_FLOOR}


def test_price_that_converts_to_nothing_cannot_win(tmp_path: Path) -> None:
    by = rules(AuctionConfig(floor_micros=0), rates(tmp_path, ManualClock()))
    assert codes(auction(answered("a", bid(9_999_999, currency="JPY")), by=by)) == {"a": Outcome.BELOW_FLOOR}
    assert codes(auction(answered("a", bid(10_000_000, currency="JPY")), by=by)) == {"a": Outcome.WON}


def test_currency_without_a_rate_and_stale_rates_are_told_apart(tmp_path: Path) -> None:
    clock = ManualClock()
    by = rules(rates=rates(tmp_path, clock))
    unknown = auction(answered("a", bid(5_000_000, currency="SEK")), by=by).outcomes[0]
    clock.advance(48 * HOUR_MS)
    stale = auction(answered("a", bid(5_000_000, currency="EUR")), by=by).outcomes[0]
    assert (unknown.code, stale.code) == (Outcome.CURRENCY, Outcome.CURRENCY)
    assert "no entry" in (unknown.detail or "")
    assert "older than" in (stale.detail or "")
    assert (stale.price_micros, stale.offered_micros, stale.rate_id) == (None, 5_000_000, None)


def test_second_best_bid_of_an_aggregator_stands_in_for_an_invalid_one() -> None:
    decision = auction(answered("a", bid(9_000_000, currency="EUR", bid_id="x"), bid(2_000_000, bid_id="y")))
    assert decision.ads[0].bid_id == "y"
    assert "currency" in (decision.outcomes[0].detail or "")
    assert decision.outcomes[0].bids == 2


def test_of_several_refused_bids_the_highest_price_gives_the_reason() -> None:
    offers = (bid(1, bid_id="low"), bid(5_000_000, bid_id="long", duration_ms=SLOT_MS + 1))
    assert codes(auction(answered("a", *offers))) == {"a": Outcome.CREATIVE_REJECTED}


def test_tie_is_settled_by_the_auction_id_and_not_by_the_order_of_aggregators() -> None:
    names = ("a", "b", "c")
    winners = set()
    for number in range(50):
        results = [answered(name, bid(2_000_000)) for name in names]
        forward = auction(*results, auction_id=f"{number:032x}")
        backward = auction(*reversed(results), auction_id=f"{number:032x}")
        assert forward.ads == backward.ads
        winners.add(forward.ads[0].aggregator)
    assert winners == set(names)


def test_of_equal_bids_of_one_aggregator_the_first_wins() -> None:
    decision = auction(answered("a", *(bid(2_000_000, bid_id=f"b{number}") for number in range(3))))
    assert decision.ads[0].bid_id == "b0"


def test_outcome_repeats_what_the_call_measured() -> None:
    measured: dict[str, Any] = {
        "propensity": 0.25,
        "tmax_ms": 250,
        "latency_us": 1,
        "queue_us": 2,
        "dns_us": 3,
        "connect_us": 4,
        "first_byte_us": 5,
        "connection_reused": True,
        "http_status": 204,
        "response_bytes": 6,
        "no_bid_reason": 8,
        "detail": "why",
    }
    (outcome,) = auction(CallResult(aggregator="a", called=True, **measured)).outcomes
    assert {name: getattr(outcome, name) for name in measured} == measured
    assert (outcome.attempt, outcome.bids, outcome.called) == (2, 0, True)


def test_decision_repeats_what_the_lot_says() -> None:
    decision = auction(answered("a"))
    assert (decision.policy, decision.model_version, decision.explored, decision.history_allowed) == (
        "weighted",
        "m1",
        True,
        True,
    )
    assert (decision.queue_us, decision.auction_us, decision.decided_ms) == (1, 2, T0 + 100)


@pytest.mark.parametrize("given", [("a",), ("a", "b", "b"), ("a", "c"), ("a", "b", "c")])
def test_auction_without_exactly_one_verdict_each_is_a_fault(given: tuple[str, ...]) -> None:
    by, sold = rules(), lot("a", "b", "c")
    verdicts = [by.judge(answered(name), sold) for name in given]
    with pytest.raises(CrashError, match="one verdict for each"):
        by.decide(lot("a", "b"), verdicts, now_ms=T0, queue_us=0, auction_us=0)


def test_advertiser_of_the_last_ad_cannot_win() -> None:
    results = [answered("a", bid(9_000_000, advertiser_domain="acme.example")), answered("b", bid(2_000_000))]
    decision = auction(*results, last_advertiser="WWW.Acme.example.")
    assert codes(decision) == {"a": Outcome.ADVERTISER_BLOCKED, "b": Outcome.WON}
    together = rules(AuctionConfig(separate_advertisers=False))
    assert codes(auction(*results, by=together, last_advertiser="acme.example"))["a"] is Outcome.WON


@pytest.mark.parametrize("named", ["uk", "co.uk", "co.uk."])
def test_last_advertiser_that_is_a_whole_country_shuts_out_nobody_else(named: str) -> None:
    result = answered("a", bid(9_000_000, advertiser_domain="acme.co.uk"))
    assert codes(auction(result, last_advertiser=named)) == {"a": Outcome.WON}


def test_unknown_advertiser_may_win_after_any_other() -> None:
    assert codes(auction(answered("a", bid(9_000_000)), last_advertiser="acme.example")) == {"a": Outcome.WON}


def spots(aggregator: str, *prices: int, **changes: Any) -> CallResult:
    return answered(
        aggregator,
        *(
            bid(price, bid_id=f"{aggregator}{number}", ad_id=f"ad-{number}", duration_ms=15_000, **changes)
            for number, price in enumerate(prices)
        ),
    )


def test_break_has_several_ads_each_with_its_push() -> None:
    decision = auction(spots("a", 2_000_000, 4_000_000), spots("b", 3_000_000, 1_000_000), slot_ms=45_000)
    assert [(ad.aggregator, ad.price_micros) for ad in decision.ads] == [
        ("a", 4_000_000),
        ("b", 3_000_000),
        ("a", 2_000_000),
    ]
    push = f"push-{'a' * 32}"
    assert decision.push_id == push
    assert [ad.push_id for ad in decision.ads] == [push, f"{push}-1", f"{push}-2"]
    assert [outcome.ads_won for outcome in decision.outcomes] == [2, 1]
    assert [outcome.price_micros for outcome in decision.outcomes] == [4_000_000, 3_000_000]


def test_single_slot_has_one_ad_however_short_the_ads_are() -> None:
    assert len(auction(spots("a", 2_000_000, 4_000_000)).ads) == 1


def test_break_has_no_more_ads_than_configured() -> None:
    config = AuctionConfig(max_ads_per_break=2)
    assert len(auction(spots("a", 1, 2, 3), by=rules(config), slot_ms=120_000).ads) == 2


def test_break_has_one_ad_of_each_advertiser_unless_they_need_not_be_separated() -> None:
    results = [
        spots("a", 9_000_000, 8_000_000, advertiser_domain="acme.example"),
        spots("b", 2_000_000, advertiser_domain="www.Acme.example"),
        spots("c", 1_000_000, advertiser_domain="other.example"),
    ]
    separated = auction(*results, slot_ms=120_000)
    assert [ad.price_micros for ad in separated.ads] == [9_000_000, 1_000_000]
    assert codes(separated)["b"] is Outcome.OUTBID
    config = AuctionConfig(separate_advertisers=False)
    assert len(auction(*results, by=rules(config), slot_ms=120_000).ads) == 4


def test_ad_of_an_unknown_advertiser_is_not_shown_twice_in_a_break() -> None:
    same = answered("a", bid(3_000_000, bid_id="1"), bid(2_000_000, bid_id="2"))
    assert [ad.bid_id for ad in auction(same, slot_ms=120_000).ads] == ["1"]


def test_aggregator_stands_with_what_it_won_and_not_with_what_was_too_long() -> None:
    config = AuctionConfig(max_ads_per_break=2)
    long = bid(5_000_000, bid_id="long", ad_id="x", duration_ms=60_000)
    short = bid(3_000_000, bid_id="short", ad_id="y", duration_ms=30_000)
    decision = auction(
        answered("a", long, short), answered("b", bid(4_000_000, duration_ms=30_000)), by=rules(config), slot_ms=60_000
    )
    assert [(o.code, o.bid_id) for o in decision.outcomes] == [(Outcome.WON, "short"), (Outcome.WON, "b1")]


def test_every_bid_with_addresses_hears_how_it_ended() -> None:
    decision = auction(
        answered(
            "a",
            bid(1, bid_id="low", notices=URLS),
            bid(2_000_000, bid_id="second", notices=URLS),
            bid(4_000_000, bid_id="best", notices=URLS),
            bid(5_000_000, bid_id="foreign", currency="EUR", notices=URLS),
            bid(3_000_000, bid_id="silent"),
        )
    )
    told = [(notice.bid_id, notice.code, notice.price_micros) for notice in decision.outcomes[0].notices]
    assert told == [
        ("best", Outcome.WON, 4_000_000),
        ("second", Outcome.OUTBID, 2_000_000),
        ("low", Outcome.BELOW_FLOOR, 1),
        ("foreign", Outcome.CURRENCY, None),
    ]
    assert [notice.push_id for notice in decision.outcomes[0].notices] == [decision.push_id, None, None, None]
    assert all(notice.urls == URLS for notice in decision.outcomes[0].notices)


def test_notice_does_not_tell_whose_ad_was_displayed_last() -> None:
    config = AuctionConfig(blocked_advertisers=("casino.example",))
    decision = auction(
        answered("a", bid(9_000_000, advertiser_domain="acme.example", notices=URLS)),
        answered("b", bid(9_000_000, advertiser_domain="casino.example", notices=URLS)),
        by=rules(config),
        last_advertiser="acme.example",
    )
    assert codes(decision) == {"a": Outcome.ADVERTISER_BLOCKED, "b": Outcome.ADVERTISER_BLOCKED}
    told = [outcome.notices[0].code for outcome in decision.outcomes]
    assert told == [Outcome.CREATIVE_REJECTED, Outcome.ADVERTISER_BLOCKED]


def test_notices_are_bounded_and_winners_come_first() -> None:
    config = AuctionConfig(max_ads_per_break=2)
    long = [bid(9_000_000 + n, bid_id=f"l{n}", ad_id=f"l{n}", duration_ms=120_000, notices=URLS) for n in range(20)]
    short = [bid(8_000_000, bid_id=f"s{n}", ad_id=f"s{n}", duration_ms=15_000, notices=URLS) for n in range(2)]
    (outcome,) = auction(answered("a", *long, *short), by=rules(config), slot_ms=120_000).outcomes
    assert len(outcome.notices) == MAX_NOTICES
    assert [notice.code for notice in outcome.notices[:3]] == [Outcome.WON, Outcome.WON, Outcome.OUTBID]
    assert (outcome.bids, outcome.ads_won) == (22, 2)


@pytest.mark.parametrize(
    ("reason", "status"), [(Outcome.SHED, "shed"), (Outcome.EXPIRED, "expired"), (Outcome.ERROR, "no_bid")]
)
def test_undecided_names_every_aggregator_uncalled(reason: Outcome, status: str) -> None:
    decision = undecided(opportunity(), reason, ("a", "b"), T0, attempt=3, detail="d" * 1_000)
    assert (decision.status, decision.ads, decision.push_id) == (status, (), None)
    assert codes(decision) == {"a": reason, "b": reason}
    assert not any(outcome.called for outcome in decision.outcomes)
    assert {(outcome.attempt, outcome.detail) for outcome in decision.outcomes} == {(3, "d" * 200)}


def test_withdrawn_decision_is_no_push() -> None:
    decision = withdraw(
        auction(answered("a", bid(2_000_000, notices=URLS)), answered("b", bid(1_500_000, notices=URLS))), T0 + 9_999
    )
    assert (decision.status, decision.ads, decision.push_id, decision.decided_ms) == ("expired", (), None, T0 + 9_999)
    assert codes(decision) == {"a": Outcome.EXPIRED, "b": Outcome.OUTBID}
    told = [(notice.code, notice.push_id) for outcome in decision.outcomes for notice in outcome.notices]
    assert told == [(Outcome.EXPIRED, None)] * 2
    assert decision.outcomes[0].ads_won == 0
    assert decision.outcomes[0].bid_id == "b1"


@pytest.mark.parametrize(("price_micros", "won"), [(2_000_000, False), (3_000_001, True), (1, False)])
def test_late_bid_would_have_won_if_it_beats_the_winner(price_micros: int, *, won: bool) -> None:
    by, sold = rules(), lot("a", "b")
    timeout = CallResult(aggregator="b", called=True, failure=Outcome.TIMEOUT)
    verdicts = [by.judge(result, sold) for result in (answered("a", bid(3_000_000)), timeout)]
    decision = by.decide(sold, verdicts, now_ms=T0, queue_us=0, auction_us=0)
    assert by.would_have_won(by.judge(answered("b", bid(price_micros)), sold), decision, sold) is won


@pytest.mark.parametrize("number", range(20))
def test_late_bid_of_the_same_price_is_settled_as_in_time(number: int) -> None:
    by, sold = rules(), lot("a", "b", auction_id=f"{number:032x}")
    in_time = [by.judge(answered(name, bid(2_000_000)), sold) for name in "ab"]
    winner = by.decide(sold, in_time, now_ms=T0, queue_us=0, auction_us=0).ads[0].aggregator
    silent = by.judge(CallResult(aggregator="b", called=True, failure=Outcome.TIMEOUT), sold)
    decision = by.decide(sold, [in_time[0], silent], now_ms=T0, queue_us=0, auction_us=0)
    assert by.would_have_won(in_time[1], decision, sold) is (winner == "b")


def test_late_ad_would_have_found_room_in_a_break() -> None:
    by = rules(CONFIG)
    sold = lot("a", "b", slot_ms=45_000)
    silent = by.judge(CallResult(aggregator="b", called=True, failure=Outcome.TIMEOUT), sold)
    decision = by.decide(
        sold, [by.judge(spots("a", 5_000_000, 4_000_000), sold), silent], now_ms=T0, queue_us=0, auction_us=0
    )
    fits = answered("b", bid(1_000_000, duration_ms=15_000))
    too_long = answered("b", bid(1_000_000, duration_ms=16_000))
    assert by.would_have_won(by.judge(fits, sold), decision, sold)
    assert not by.would_have_won(by.judge(too_long, sold), decision, sold)


def test_late_bid_would_have_won_nothing_after_the_deadline() -> None:
    by, sold = rules(), lot("a")
    verdict = by.judge(answered("a", bid(9_000_000)), sold)
    assert by.would_have_won(verdict, auction(answered("a")), sold)
    assert not by.would_have_won(verdict, withdraw(auction(answered("a")), T0), sold)
    assert not by.would_have_won(verdict, undecided(sold.opportunity, Outcome.SHED, ("a",), T0), sold)
