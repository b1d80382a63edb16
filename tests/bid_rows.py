"""Rows of bids one by one: what the operator makes column by column."""

from __future__ import annotations

from datastreamx.model.auction import AggregatorOutcome, BidNotice, Decision, Outcome
from datastreamx.tables import Row


def bid_rows(decision: Decision, offset: int) -> list[Row]:
    """Rows of bids, one per aggregator; `offset` is the decision's place in its partition of ad-decisions."""
    return [_bid_row(decision, outcome, offset) for outcome in decision.outcomes]


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


def _notices(bids: tuple[BidNotice, ...]) -> str | None:
    """Which notices the bids are due, without their addresses, which carry prices and tokens."""
    due = {
        "win": any(bid.urls.win and bid.code is Outcome.WON for bid in bids),
        "loss": any(bid.urls.loss and bid.code is not Outcome.WON for bid in bids),
        "billing": any(bid.urls.billing and bid.code is Outcome.WON for bid in bids),
    }
    return ",".join(event for event, is_due in due.items() if is_due) or None
