"""An auction as it is told afterwards. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

Record = Mapping[str, Any]
"""One row of BigQuery by column name."""


class BidTold(msgspec.Struct, frozen=True, kw_only=True):
    """What one aggregator did; see the table `bids`."""

    aggregator: str
    outcome: str
    called: bool
    propensity: float
    attempt: int
    tmax_ms: int | None
    latency_us: int | None
    http_status: int | None
    price_micros: int | None
    currency: str | None
    ad_id: str | None
    detail: str | None


class Display(msgspec.Struct, frozen=True, kw_only=True):
    """That the box displayed the ad."""

    shown_time_ms: int
    ad_id: str
    shown_ms: int


class DecisionTold(msgspec.Struct, frozen=True, kw_only=True):
    """One opportunity, what was known, what was asked and what came of it; see the table `ad_decisions`.

    Attributes:
        bids: The winner first, then by falling price, then those without a bid.
        display: Unset while none is known; a box reports it after the ad.
    """

    auction_id: str
    status: str
    trigger: str
    opportunity_ms: int
    decided_ms: int
    deadline_ms: int
    slot_ms: int
    channel_id: str
    last_channel_id: str | None
    last_ad_id: str | None
    break_id: str | None
    aggregator: str | None
    ad_id: str | None
    price_micros: int | None
    currency: str | None
    push_id: str | None
    policy: str
    model_version: str | None
    queue_us: int | None
    auction_us: int | None
    bids: list[BidTold]
    display: Display | None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The last decisions for one box, newest first. Without its raw id: what is printed may be passed on."""

    box_key: str
    since_hours: int
    decisions: list[DecisionTold]


def assemble(
    box_key: str, since_hours: int, decisions: Iterable[Record], bids: Iterable[Record], displays: Iterable[Record]
) -> Explanation:
    """Join rows of ad_decisions, bids and impressions.

    Args:
        box_key: Pseudonym of the box.
        since_hours: How far back was looked.
        decisions: In the order in which they are to be told.
        bids: Of these decisions, in any order.
        displays: Of these decisions, in any order; of several for one push the first counts.
    """
    bids_of: dict[str, list[BidTold]] = {}
    for row in bids:
        bids_of.setdefault(row["auction_id"], []).append(
            msgspec.convert({name: row[name] for name in BidTold.__struct_fields__}, BidTold)
        )
    display_of: dict[str, Display] = {}
    for row in sorted(displays, key=lambda row: row["shown_time"]):
        display = Display(shown_time_ms=millis(row["shown_time"]), ad_id=row["ad_id"], shown_ms=row["shown_ms"])
        display_of.setdefault(row["push_id"], display)
    told = [
        DecisionTold(
            **{name: row[name] for name in _COPIED},
            opportunity_ms=millis(row["opportunity_time"]),
            decided_ms=millis(row["decided_time"]),
            deadline_ms=millis(row["deadline_time"]),
            bids=sorted(bids_of.get(row["auction_id"], []), key=_rank),
            display=display_of.get(row["push_id"]),
        )
        for row in decisions
    ]
    return Explanation(box_key=box_key, since_hours=since_hours, decisions=told)


def millis(moment: datetime) -> int:
    """Milliseconds since the epoch."""
    return round(moment.timestamp() * 1000)


_COMPUTED = {"opportunity_ms", "decided_ms", "deadline_ms", "bids", "display"}
_COPIED = tuple(name for name in DecisionTold.__struct_fields__ if name not in _COMPUTED)


def _rank(bid: BidTold) -> tuple[bool, bool, int, str]:
    price = bid.price_micros
    return bid.outcome != "won", price is None, -(price or 0), bid.aggregator
