"""Decisions as rows of ad_decisions, bids and late_bids, values in column order."""

from __future__ import annotations

import msgspec

from datastreamx.model.auction import AggregatorOutcome, BidNotice, Decision, LateBid, Outcome
from datastreamx.tables import Row


def decision_row(decision: Decision, offset: int) -> Row:
    """Row of ad_decisions; `offset` is the record's place in its partition of ad-decisions."""
    ads = decision.ads
    first = ads[0] if ads else None
    candidates = [
        {"aggregator": outcome.aggregator, "called": outcome.called, "propensity": outcome.propensity}
        for outcome in decision.outcomes
    ]
    return (
        decision.decided_ms * 1000,
        decision.opportunity_ms * 1000,
        decision.emitted_ms * 1000,
        decision.deadline_ms * 1000,
        decision.auction_id,
        decision.box_key,
        decision.trigger,
        decision.status,
        decision.channel_id,
        decision.last_channel_id,
        decision.last_ad_id,
        decision.break_id,
        decision.slot_ms,
        decision.push_id,
        first.aggregator if first else None,
        first.ad_id if first else None,
        sum(ad.price_micros for ad in ads) if ads else None,
        first.currency if first else None,
        decision.policy,
        decision.model_version,
        msgspec.json.encode(candidates).decode(),
        decision.queue_us,
        decision.auction_us,
        decision.partition,
        offset,
        decision.explored,
        decision.history_allowed,
        len(ads),
        _break_ads(decision) if len(ads) > 1 else None,
    )


def bid_rows(decision: Decision, offset: int) -> list[Row]:
    """Rows of bids, one per aggregator; `offset` as in `decision_row`."""
    return [_bid_row(decision, outcome, offset) for outcome in decision.outcomes]


def late_row(late: LateBid, partition: int, offset: int) -> Row:
    """Row of late_bids; `partition` and `offset` are the place of the decision that it travelled with."""
    return (
        late.decided_ms * 1000,
        late.auction_id,
        late.aggregator,
        late.channel_id,
        late.latency_us,
        late.price_micros,
        late.would_have_won,
        partition,
        offset,
    )


def _bid_row(decision: Decision, outcome: AggregatorOutcome, offset: int) -> Row:
    return (
        decision.decided_ms * 1000,
        decision.auction_id,
        outcome.aggregator,
        outcome.code.label,
        int(outcome.code),
        outcome.called,
        outcome.propensity,
        outcome.attempt,
        decision.channel_id,
        outcome.tmax_ms,
        outcome.latency_us,
        outcome.http_status,
        outcome.response_bytes,
        outcome.bid_id,
        outcome.price_micros,
        outcome.currency,
        outcome.ad_id,
        outcome.detail,
        decision.partition,
        offset,
        outcome.queue_us,
        outcome.dns_us,
        outcome.connect_us,
        outcome.first_byte_us,
        outcome.connection_reused,
        outcome.bids,
        outcome.ads_won,
        outcome.offered_micros,
        outcome.offered_currency,
        outcome.rate_id,
        outcome.floor_micros,
        outcome.advertiser_domain,
        outcome.no_bid_reason,
        _notices(outcome.notices),
    )


def _break_ads(decision: Decision) -> str:
    """Without addresses: they are long, and may name the box."""
    ads = [
        {
            "push_id": ad.push_id,
            "aggregator": ad.aggregator,
            "bid_id": ad.bid_id,
            "ad_id": ad.ad_id,
            "price_micros": ad.price_micros,
            "duration_ms": ad.duration_ms,
            "advertiser_domain": ad.advertiser_domain,
        }
        for ad in decision.ads
    ]
    return msgspec.json.encode(ads).decode()


def _notices(bids: tuple[BidNotice, ...]) -> str | None:
    """Which notices the bids are due, without their addresses, which carry prices and tokens."""
    due = {
        "win": any(bid.urls.win and bid.code is Outcome.WON for bid in bids),
        "loss": any(bid.urls.loss and bid.code is not Outcome.WON for bid in bids),
        "billing": any(bid.urls.billing and bid.code is Outcome.WON for bid in bids),
    }
    return ",".join(event for event, is_due in due.items() if is_due) or None
