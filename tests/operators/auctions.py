"""Short ways to make auctions."""

from __future__ import annotations

from typing import Any

from datastreamx.clock import ManualClock
from datastreamx.config import AuctionConfig
from datastreamx.model.auction import Bid, Decision, Outcome
from operators.bidding.auction import CallResult, Lot, Rules
from operators.bidding.rates import RateTable
from tests.builders import T0, opportunity

SLOT_MS = 30_000
CONFIG = AuctionConfig(floor_micros=1_000_000, currency="USD")


def rules(config: AuctionConfig = CONFIG, rates: RateTable | None = None) -> Rules:
    return Rules(config, rates or RateTable(None, config.currency, 48, ManualClock()), SLOT_MS)


def bid(price_micros: int, **changes: Any) -> Bid:
    fields: dict[str, Any] = {"bid_id": "b1", "price_micros": price_micros, "currency": "USD", "ad_id": "ad-1"}
    return Bid(**{**fields, **changes})


def answered(aggregator: str, *bids: Bid) -> CallResult:
    return CallResult(aggregator=aggregator, called=True, bids=bids, latency_us=1_000, http_status=200)


def lot(
    *aggregators: str,
    by: Rules | None = None,
    auction_id: str = "a" * 32,
    slot_ms: int = SLOT_MS,
    last_advertiser: str | None = None,
) -> Lot:
    found, by = opportunity(auction_id=auction_id, slot_ms=slot_ms), by or rules()
    return Lot(
        opportunity=found,
        attempt=2,
        aggregators=aggregators,
        max_ads=by.max_ads(slot_ms),
        floors=by.floors_for(found, aggregators),
        blocked=by.blocked,
        separated=by.separated_from(last_advertiser),
        history_allowed=True,
        policy="weighted",
        model_version="m1",
        explored=True,
    )


def auction(*results: CallResult, by: Rules | None = None, **changes: Any) -> Decision:
    by = by or rules()
    sold = lot(*(result.aggregator for result in results), by=by, **changes)
    verdicts = [by.judge(result, sold) for result in results]
    return by.decide(sold, verdicts, now_ms=T0 + 100, queue_us=1, auction_us=2)


def codes(decision: Decision) -> dict[str, Outcome]:
    return {outcome.aggregator: outcome.code for outcome in decision.outcomes}
