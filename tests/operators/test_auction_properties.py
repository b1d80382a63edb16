"""What holds of every auction, whatever aggregators answer. The seed is the parameter: a failure names it."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import pytest

from datastreamx.clock import ManualClock
from datastreamx.config import AuctionConfig, FloorRule
from datastreamx.hosts import host_allowed, in_domains
from datastreamx.model.auction import Bid, Decision, NoticeUrls, Outcome
from operators.bidding.auction import CallResult, Lot, Rules, withdraw
from operators.bidding.objections import advertiser_of
from operators.bidding.rates import RateTable
from tests.builders import T0
from tests.operators.auctions import lot, rules

SEEDS = range(250)
NAMES = ("alpha", "beta", "gamma", "delta", "omega")
WORTH = {"USD": Fraction(1), "EUR": Fraction("1.0842"), "JPY": Fraction("0.0064")}
CONFIG = AuctionConfig(
    floor_micros=500_000,
    floors=(FloorRule(floor_micros=2_000_000, aggregators=("alpha", "beta")),),
    blocked_advertisers=("casino.example",),
    creative_hosts=("*.cdn.example",),
    max_ads_per_break=4,
)
FAILURES = tuple(
    code for code in Outcome if code not in {Outcome.WON, Outcome.OUTBID, Outcome.NO_BID, Outcome.EXPIRED, Outcome.SHED}
)


class Case:
    """One auction drawn from a seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        path = folder / "rates.toml"
        path.write_text("as_of = 2023-11-14T00:00:00Z\n[rates]\nEUR = 1.0842\nJPY = 0.0064\n", encoding="utf-8")
        self.rules: Rules = rules(CONFIG, RateTable(path, "USD", 48, ManualClock()))
        self.lot: Lot = lot(
            *self.random.sample(NAMES, self.random.randrange(1, 6)),
            by=self.rules,
            auction_id=self.random.randbytes(16).hex(),
            slot_ms=self.random.choice([15_000, 30_000, 90_000]),
            last_advertiser=self.random.choice([None, "acme.example"]),
        )
        self.results = [self._result(name) for name in self.lot.aggregators]
        self.offered = {
            (result.aggregator, bid.bid_id): bid
            for result in self.results
            for bid in result.bids
            if result.failure is None
        }

    def decide(self, order: list[int] | None = None) -> Decision:
        verdicts = [self.rules.judge(result, self.lot) for result in self.results]
        verdicts = [verdicts[index] for index in order] if order else verdicts
        return self.rules.decide(self.lot, verdicts, now_ms=T0, queue_us=0, auction_us=0)

    def _result(self, name: str) -> CallResult:
        if self.random.random() < 0.2:
            return CallResult(aggregator=name, called=self.random.random() < 0.5, failure=self.random.choice(FAILURES))
        count = self.random.choice([0, 1, 1, 2, 5, 20])
        return CallResult(aggregator=name, called=True, bids=tuple(self._bid(number) for number in range(count)))

    def _bid(self, number: int) -> Bid:
        hosts = self.random.choice([(), ("a.cdn.example",), ("a.cdn.example", "evil.example")])
        domains = [None, "acme.example", "shop.acme.example", "www.casino.example", *(f"{n}.example" for n in range(9))]
        return Bid(
            bid_id=f"b{number}",
            # Few different prices, so that there are ties.
            price_micros=self.random.choice([-1, 0, 1, 499_999, 500_000, 2_000_000, 2_000_001, 3_000_000]),
            currency=self.random.choice(["USD", "USD", "EUR", "JPY", "SEK"]),
            ad_id=f"ad-{self.random.randrange(6)}",
            creative_url="https://a.cdn.example/ad" if hosts else None,
            creative_hosts=hosts,
            duration_ms=self.random.choice([None, 5_000, 15_000, 30_000, 30_001, 90_001]),
            advertiser_domain=self.random.choice(domains),
            notices=self.random.choice([None, NoticeUrls(loss="https://t.example/l")]),
        )


@pytest.fixture(params=SEEDS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return Case(request.param, tmp_path)


def test_each_aggregator_has_exactly_one_outcome(case: Case) -> None:
    decision = case.decide()
    assert tuple(outcome.aggregator for outcome in decision.outcomes) == case.lot.aggregators
    won = {outcome.aggregator: outcome.ads_won for outcome in decision.outcomes if outcome.code is Outcome.WON}
    assert won == {name: sum(ad.aggregator == name for ad in decision.ads) for name in won}
    assert {ad.aggregator for ad in decision.ads} == set(won)
    assert (decision.status == "won") == bool(decision.ads) == (decision.push_id is not None)


def test_no_ad_breaks_a_rule(case: Case) -> None:
    for ad in case.decide().ads:
        bid = case.offered[ad.aggregator, ad.bid_id]
        assert ad.price_micros >= case.lot.floors[ad.aggregator] > 0
        assert not in_domains(bid.advertiser_domain or "", case.lot.blocked | {"casino.example"})
        assert bid.advertiser_domain is None or advertiser_of(bid.advertiser_domain) not in case.lot.separated
        assert (bid.duration_ms or 0) <= case.lot.opportunity.slot_ms
        assert all(host_allowed(host, CONFIG.creative_hosts) for host in bid.creative_hosts)


def test_ads_fit_the_break_together_and_come_from_different_advertisers(case: Case) -> None:
    ads = case.decide().ads
    slot_ms = case.lot.opportunity.slot_ms
    assert len(ads) <= case.lot.max_ads
    assert sum(min(30_000, slot_ms) if ad.duration_ms is None else ad.duration_ms for ad in ads) <= slot_ms
    advertisers = [ad.advertiser_domain for ad in ads if ad.advertiser_domain]
    assert len(set(advertisers)) == len(advertisers)
    assert len({ad.push_id for ad in ads}) == len(ads)


def test_price_paid_is_the_bid_converted_and_rounded_down(case: Case) -> None:
    for ad in case.decide().ads:
        bid = case.offered[ad.aggregator, ad.bid_id]
        assert ad.price_micros == bid.price_micros * WORTH[bid.currency] // 1
        assert ad.currency == "USD"


def test_somebody_wins_if_anybody_may(case: Case) -> None:
    decision = case.decide()
    valid = any(outcome.code in {Outcome.WON, Outcome.OUTBID} for outcome in decision.outcomes)
    assert valid == bool(decision.ads)


def test_single_slot_goes_to_the_highest_price(case: Case) -> None:
    decision = case.decide()
    if case.lot.max_ads == 1 and decision.ads:
        outbid = [o.price_micros for o in decision.outcomes if o.code is Outcome.OUTBID and o.price_micros]
        assert all(price <= decision.ads[0].price_micros for price in outbid)


def test_order_of_the_answers_changes_nothing(case: Case) -> None:
    order = case.random.sample(range(len(case.results)), len(case.results))
    assert case.decide(order) == case.decide()


def test_every_bid_that_asks_hears_one_end_unless_there_are_too_many(case: Case) -> None:
    decision = case.decide()
    for outcome in decision.outcomes:
        asking = [bid for (name, _), bid in case.offered.items() if name == outcome.aggregator and bid.notices]
        assert len(outcome.notices) == min(len(asking), 16)
        assert len({notice.bid_id for notice in outcome.notices}) == len(outcome.notices)
        won = {notice.push_id for notice in outcome.notices if notice.code is Outcome.WON}
        assert won <= {ad.push_id for ad in decision.ads if ad.aggregator == outcome.aggregator}


def test_withdrawn_auction_has_no_trace_of_a_win(case: Case) -> None:
    decision = withdraw(case.decide(), T0)
    codes = [outcome.code for outcome in decision.outcomes]
    codes += [notice.code for outcome in decision.outcomes for notice in outcome.notices]
    assert Outcome.WON not in codes
    assert not any(outcome.ads_won for outcome in decision.outcomes)
    assert not any(notice.push_id for outcome in decision.outcomes for notice in outcome.notices)
