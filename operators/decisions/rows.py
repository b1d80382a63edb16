"""Decisions as rows of ad_decisions and bids, values in column order."""

from __future__ import annotations

import msgspec

from datastreamx.model.auction import Decision
from datastreamx.tables import Row


def decision_row(decision: Decision, offset: int) -> Row:
    """Row of ad_decisions; `offset` is the record's place in its partition of ad-decisions."""
    winner = decision.winner
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
        winner.aggregator if winner else None,
        winner.ad_id if winner else None,
        winner.price_micros if winner else None,
        winner.currency if winner else None,
        decision.policy,
        decision.model_version,
        msgspec.json.encode(candidates).decode(),
        decision.queue_us,
        decision.auction_us,
        decision.partition,
        offset,
    )


def bid_rows(decision: Decision, offset: int) -> list[Row]:
    """Rows of bids, one per aggregator; `offset` as in `decision_row`."""
    return [
        (
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
        )
        for outcome in decision.outcomes
    ]
