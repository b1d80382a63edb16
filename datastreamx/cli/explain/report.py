"""An auction as it is told afterwards. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

Record = Mapping[str, Any]
"""One row of BigQuery by column name."""


class LateTold(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that came after the auction was closed; see the table `late_bids`."""

    latency_us: int
    price_micros: int | None
    would_have_won: bool


class BidTold(msgspec.Struct, frozen=True, kw_only=True):
    """What one aggregator did; see the table `bids`. Columns that a row was written without are unset.

    Attributes:
        late: Its answer, if that came too late.
    """

    aggregator: str
    outcome: str
    called: bool
    propensity: float
    attempt: int
    tmax_ms: int | None
    latency_us: int | None
    queue_us: int | None
    dns_us: int | None
    connect_us: int | None
    first_byte_us: int | None
    connection_reused: bool | None
    http_status: int | None
    bids: int | None
    ads_won: int | None
    price_micros: int | None
    currency: str | None
    offered_micros: int | None
    offered_currency: str | None
    rate_id: str | None
    floor_micros: int | None
    ad_id: str | None
    advertiser_domain: str | None
    no_bid_reason: int | None
    notices: str | None
    detail: str | None
    late: LateTold | None = None


class Display(msgspec.Struct, frozen=True, kw_only=True):
    """That the box displayed the ad."""

    shown_time_ms: int
    ad_id: str
    shown_ms: int


class AdTold(msgspec.Struct, frozen=True, kw_only=True):
    """An ad that was pushed.

    Attributes:
        duration_ms: Its length, told for ads of a break alone.
        display: Unset while none is known; a box reports it after the ad.
    """

    push_id: str
    aggregator: str
    ad_id: str
    price_micros: int
    duration_ms: int | None = None
    display: Display | None = None


class DecisionTold(msgspec.Struct, frozen=True, kw_only=True):
    """One opportunity, what was known, what was asked and what came of it; see the table `ad_decisions`.

    Attributes:
        explored: Everyone was called, whatever the policy.
        history_allowed: Viewing history was allowed to leave the house.
        ads: What was pushed, in the order of display.
        currency: Of all prices of `ads`.
        bids: The winners first, then by falling price, then those without a bid.
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
    currency: str | None
    policy: str
    model_version: str | None
    explored: bool | None
    history_allowed: bool | None
    queue_us: int | None
    auction_us: int | None
    ads: list[AdTold]
    bids: list[BidTold]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The last decisions for one box, newest first. Without its raw id: what is printed may be passed on."""

    box_key: str
    since_hours: int
    decisions: list[DecisionTold]


@dataclass(frozen=True)
class Rows:
    """What BigQuery holds about some decisions.

    Attributes:
        decisions: Rows of ad_decisions in the order in which they are to be told.
        bids: Rows of bids, like all that follow of these decisions and in any order.
        late: Rows of late_bids.
        displays: Rows of impressions; of several for one push the first counts.
    """

    decisions: Sequence[Record]
    bids: Sequence[Record] = ()
    late: Sequence[Record] = ()
    displays: Sequence[Record] = ()


def assemble(box_key: str, since_hours: int, rows: Rows) -> Explanation:
    """Join the rows of one box. `since_hours` says how far back was looked."""
    late_of = {
        (row["auction_id"], row["aggregator"]): msgspec.convert(
            {name: row[name] for name in LateTold.__struct_fields__}, LateTold
        )
        for row in rows.late
    }
    bids_of: dict[str, list[BidTold]] = {}
    for row in rows.bids:
        told = msgspec.convert({name: row[name] for name in _BID_COLUMNS}, BidTold)
        answer = late_of.get((row["auction_id"], told.aggregator))
        bids_of.setdefault(row["auction_id"], []).append(msgspec.structs.replace(told, late=answer))
    display_of: dict[str, Display] = {}
    for row in sorted(rows.displays, key=lambda row: row["shown_time"]):
        display = Display(shown_time_ms=millis(row["shown_time"]), ad_id=row["ad_id"], shown_ms=row["shown_ms"])
        display_of.setdefault(row["push_id"], display)
    return Explanation(
        box_key=box_key,
        since_hours=since_hours,
        decisions=[
            DecisionTold(
                **{name: row[name] for name in _COPIED},
                opportunity_ms=millis(row["opportunity_time"]),
                decided_ms=millis(row["decided_time"]),
                deadline_ms=millis(row["deadline_time"]),
                ads=[msgspec.structs.replace(ad, display=display_of.get(ad.push_id)) for ad in ads_of(row)],
                bids=sorted(bids_of.get(row["auction_id"], []), key=_rank),
            )
            for row in rows.decisions
        ],
    )


def ads_of(row: Record) -> list[AdTold]:
    """Ads of a row of ad_decisions: its own columns speak of the first, `break_ads` of all if there are several."""
    if row["break_ads"] is not None:
        return _BREAK_ADS.decode(row["break_ads"])
    if row["push_id"] is None:
        return []
    return [msgspec.convert({name: row[name] for name in _AD_COLUMNS}, AdTold)]


def millis(moment: datetime) -> int:
    """Milliseconds since the epoch."""
    return round(moment.timestamp() * 1000)


_BREAK_ADS = msgspec.json.Decoder(list[AdTold])
_AD_COLUMNS = ("push_id", "aggregator", "ad_id", "price_micros")
_BID_COLUMNS = tuple(name for name in BidTold.__struct_fields__ if name != "late")
_COMPUTED = {"opportunity_ms", "decided_ms", "deadline_ms", "ads", "bids"}
_COPIED = tuple(name for name in DecisionTold.__struct_fields__ if name not in _COMPUTED)


def _rank(bid: BidTold) -> tuple[bool, bool, int, str]:
    price = bid.price_micros
    return bid.outcome != "won", price is None, -(price or 0), bid.aggregator
