"""The rollup as one would write it without a thought of speed: an oracle for `operators.rollups`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from datastreamx.model.auction import Decision
from datastreamx.tables import MINUTE_ROLLUPS, Row
from operators.impressions.join import Impression

MEASURES = [column.name for column in MINUTE_ROLLUPS.columns[3:]]

Totals = dict[tuple[int, str | None, str | None, str], int]
"""Sum by (minute in ms, channel, aggregator, measure); sums of zero are left out."""

_BIDS = {"won", "outbid", "below_floor", "currency", "creative_rejected", "advertiser_blocked"}
_ERRORS = {"error", "invalid_response", "unreachable", "oversize"}


def naive_totals(events: Iterable[Row], decisions: Iterable[Decision], impressions: Iterable[Impression]) -> Totals:
    """Count rows of box_events, decisions and impressions one by one."""
    totals: Counter[tuple[int, str | None, str | None, str]] = Counter()

    def add(at_ms: int, channel: str | None, aggregator: str | None, measure: str, amount: int = 1) -> None:
        totals[at_ms // 60_000 * 60_000, channel, aggregator, measure] += amount

    for event_time_us, _, _, _, _, _, event_type, is_late, channel, *_ in events:
        place: tuple[Any, Any, None] = (int(str(event_time_us)) // 1000, channel, None)
        add(*place, "events")
        add(*place, "late_events", int(bool(is_late)))
        add(*place, "tunes", int(event_type == "tune"))
    for decision in decisions:
        add(decision.decided_ms, decision.channel_id, None, "opportunities")
        for outcome in decision.outcomes:
            at = (decision.decided_ms, decision.channel_id, outcome.aggregator)
            label = outcome.code.label
            withdrawn = label == "expired" and outcome.bid_id is not None
            add(*at, "calls", int(outcome.called))
            objected = label == "unsuitable" and outcome.called
            add(*at, "bids", int(label in _BIDS or objected or withdrawn))
            add(*at, "timeouts", int(label == "timeout"))
            add(*at, "errors", int(outcome.called and label in _ERRORS))
        for ad in decision.ads:
            add(decision.decided_ms, decision.channel_id, ad.aggregator, "wins")
    for impression in impressions:
        push = impression.push
        shown = (impression.display.shown_time_ms, push.channel_id if push else None, push.aggregator if push else None)
        add(*shown, "impressions")
        add(*shown, "revenue_micros", round(push.price_micros / 1000) if push else 0)
    return {place: amount for place, amount in totals.items() if amount}


def summed(rows: Iterable[Mapping[str, Any]]) -> Totals:
    """Sum rows of minute_rollups as a dashboard does."""
    totals: Counter[tuple[int, str | None, str | None, str]] = Counter()
    for row in rows:
        minute: datetime = row["minute"]
        for measure in MEASURES:
            place = (round(minute.timestamp() * 1000), row["channel_id"], row["aggregator"], measure)
            totals[place] += row[measure]
    return {place: amount for place, amount in totals.items() if amount}
