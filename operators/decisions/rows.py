"""Decisions as rows of ad_decisions, bids and late_bids, values in column order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, repeat

import msgspec
import pyarrow as pa

from datastreamx.model.auction import AggregatorOutcome, BidNotice, Decision, LateBid, Outcome
from datastreamx.tables import BIDS, Row

_OUTCOME_FIELDS = AggregatorOutcome.__struct_fields__
_LABELS = {int(code): code.label for code in Outcome}


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


def bids_batch(decisions: Sequence[Decision], offsets: Sequence[int]) -> pa.RecordBatch | None:
    """Record batch of bids: a row per decision and aggregator, `None` without any; `offsets` as in `decision_row`.

    Column by column, because these are most of the rows: a third of the time that a tuple per row takes.
    """
    outcomes = [outcome for decision in decisions for outcome in decision.outcomes]
    if not outcomes:
        return None
    columns: dict[str, Iterable[object]] = dict(
        zip(_OUTCOME_FIELDS, zip(*map(msgspec.structs.astuple, outcomes), strict=True), strict=True)
    )
    codes = [int(outcome.code) for outcome in outcomes]
    columns["outcome_code"] = codes
    columns["outcome"] = [_LABELS[code] for code in codes]
    columns["notices"] = [_notices(outcome.notices) if outcome.notices else None for outcome in outcomes]

    counts = [len(decision.outcomes) for decision in decisions]
    of_decisions: dict[str, Iterable[object]] = {
        "decided_time": [decision.decided_ms * 1000 for decision in decisions],
        "auction_id": [decision.auction_id for decision in decisions],
        "channel_id": [decision.channel_id for decision in decisions],
        "log_partition": [decision.partition for decision in decisions],
        "log_offset": offsets,
    }
    columns |= {name: [*chain.from_iterable(map(repeat, values, counts))] for name, values in of_decisions.items()}
    schema = BIDS.arrow_schema
    return pa.record_batch([pa.array(columns[field.name], type=field.type) for field in schema], schema=schema)


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
