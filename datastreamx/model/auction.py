"""Opportunities, bids and decisions: what the auction reads and writes."""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

Trigger = Literal["dwell", "ad_break"]


class Opportunity(msgspec.Struct, frozen=True, kw_only=True):
    """A moment at which a box may be shown an ad. Becomes an impression only when the box displays one.

    Attributes:
        auction_id: 32 hex digits; follows from the position of the event that caused it, so a replay repeats it.
        box_id: Raw id; the push needs it, nothing else does.
        box_key: Keyed pseudonym of the box, for facts and aggregators.
        partition: Kafka partition of the causing event.
        group: Key group within the partition.
        offset: Kafka offset of the record whose processing emitted the opportunity (for dwell: the record that moved
            the watermark, not the tune).
        emitted_ms: Kafka timestamp of that record: when it could have been known at the earliest.
        opportunity_ms: Event time at which the opportunity arose.
        deadline_ms: Event time after which no push may reach the box.
        slot_ms: Length of the ad slot.
        expired: The watermark had already passed the deadline when it arose: counted, never auctioned.
    """

    auction_id: str
    box_id: str
    box_key: str
    partition: int
    group: int
    offset: int
    emitted_ms: int
    trigger: Trigger
    opportunity_ms: int
    deadline_ms: int
    slot_ms: int
    channel_id: str
    last_channel_id: str | None
    last_ad_id: str | None
    break_id: str | None = None
    expired: bool = False


class BidRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What an aggregator's adapter may know of an opportunity. Carries no raw box id.

    Attributes:
        tmax_ms: How long the aggregator has to answer, network included.
        floor_micros: Lowest acceptable price (CPM) in millionths of `currency`.
    """

    auction_id: str
    box_key: str
    trigger: Trigger
    opportunity_ms: int
    channel_id: str
    last_channel_id: str | None
    last_ad_id: str | None
    break_id: str | None
    slot_ms: int
    tmax_ms: int
    floor_micros: int
    currency: str


class Bid(msgspec.Struct, frozen=True, kw_only=True):
    """One aggregator's offer, as its adapter read it: neither validated nor converted yet.

    Attributes:
        bid_id: The aggregator's id of the bid.
        price_micros: CPM in millionths of `currency`; an integer, because money compared as floats is a bug.
        ad_id: Creative to display.
        creative_url: Where the creative (VAST or media) is; `None` when the box has it preloaded.
        duration_ms: Length of the creative, if told.
    """

    bid_id: str
    price_micros: int
    currency: str
    ad_id: str
    creative_url: str | None = None
    duration_ms: int | None = None
    advertiser_domain: str | None = None


class Outcome(enum.IntEnum):
    """How one (auction, aggregator) ended: exactly one code each, called or not.

    Below 500: OpenRTB seat-non-bid codes (Prebid's "Seat Non Bid" extension). From 500: ours.
    """

    NO_BID = 0
    ERROR = 100
    TIMEOUT = 101
    INVALID_RESPONSE = 102
    UNREACHABLE = 103
    UNSUITABLE = 200
    CURRENCY = 205
    BELOW_FLOOR = 301
    CREATIVE_REJECTED = 350
    WON = 500
    OUTBID = 501
    SHED = 510
    EXPIRED = 511
    OVERSIZE = 512

    @property
    def label(self) -> str:
        """The name used in metrics, tables and on the wire."""
        return self.name.lower()


class AggregatorOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One row of an auction: what one aggregator did.

    Attributes:
        called: Whether a request left the process.
        propensity: Probability with which the policy calls this aggregator in this context; 1.0 for "call all".
        attempt: 1, and one more for every time the auction was re-issued after a crash.
        tmax_ms: What the aggregator was told; `None` when it was not called.
        latency_us: From sending to the last byte or failure; `None` when it was not called.
        detail: Why, for a human; bounded.
    """

    aggregator: str
    code: Outcome
    called: bool
    propensity: float
    attempt: int = 1
    tmax_ms: int | None = None
    latency_us: int | None = None
    http_status: int | None = None
    response_bytes: int | None = None
    bid_id: str | None = None
    price_micros: int | None = None
    currency: str | None = None
    ad_id: str | None = None
    detail: str | None = None


class Winner(msgspec.Struct, frozen=True, kw_only=True):
    """The ad that the box is to display."""

    aggregator: str
    bid_id: str
    ad_id: str
    price_micros: int
    currency: str
    creative_url: str | None = None
    duration_ms: int | None = None
    advertiser_domain: str | None = None


DecisionStatus = Literal["won", "no_bid", "expired", "shed"]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The one record that an opportunity ends in (decision D5). With a winner it *is* the ad push.

    Attributes:
        v: Version of this format.
        push_id: Idempotency key of the push, equal for every copy; `None` without a winner.
        decided_ms: Wall clock of the decision.
        queue_us: From the causing record's hand-over to the first aggregator call.
        auction_us: From the first call to the decision.
        outcomes: One per configured aggregator, called or not.
        policy: Name of the policy that chose whom to call.
    """

    v: int = 1
    auction_id: str
    box_id: str
    box_key: str
    partition: int
    group: int
    offset: int
    emitted_ms: int
    trigger: Trigger
    opportunity_ms: int
    deadline_ms: int
    decided_ms: int
    slot_ms: int
    channel_id: str
    last_channel_id: str | None
    last_ad_id: str | None
    break_id: str | None
    status: DecisionStatus
    push_id: str | None = None
    winner: Winner | None = None
    outcomes: tuple[AggregatorOutcome, ...] = ()
    policy: str = "all"
    model_version: str | None = None
    queue_us: int | None = None
    auction_us: int | None = None


class DecidedAuction(msgspec.Struct, frozen=True, gc=False):
    """What has to be known of a logged decision in order not to decide again.

    Attributes:
        offset: Kafka offset of the box event whose processing emitted the opportunity.
    """

    auction_id: str
    group: int
    offset: int
