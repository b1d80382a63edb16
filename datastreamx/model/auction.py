"""Opportunities, bids and decisions: what the auction reads and writes."""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

from datastreamx.model.events import Consent

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
        slot_ms: Length of the ad slot, or of the whole break.
        consent: What the viewer allows; `None` when the box said nothing.
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
    consent: Consent | None = None
    expired: bool = False


class BidRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What one aggregator's adapter may know of an opportunity, after the privacy policy was applied.

    Attributes:
        box_key: Pseudonym of the box that only this aggregator gets; `None` when it is withheld.
        last_channel_id: Viewing history; `None` when there is none, or no consent, or it is withheld.
        last_ad_id: Likewise.
        slot_ms: Length of the slot; with `max_ads` above 1 of the whole break, to be filled by several ads.
        tmax_ms: How long the aggregator has to answer, network included.
        floor_micros: Lowest acceptable price (CPM) in millionths of `currency`.
        max_ads: Most ads that may fill `slot_ms`; 1 is a single slot.
        blocked_advertisers: Domains whose ads cannot win.
        consent: Consent strings to pass on.
    """

    auction_id: str
    box_key: str | None
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
    max_ads: int = 1
    blocked_advertisers: tuple[str, ...] = ()
    consent: Consent | None = None


class NoticeUrls(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the aggregator wants to hear how its bid ended (OpenRTB 2.6, 3.2.3), macros not yet substituted.

    Attributes:
        win: `nurl`: the bid won the auction.
        loss: `lurl`: it did not.
        billing: `burl`: the ad was displayed, and is paid.
    """

    win: str | None = None
    loss: str | None = None
    billing: str | None = None


class Bid(msgspec.Struct, frozen=True, kw_only=True):
    """One aggregator's offer, as its adapter read it: neither validated nor converted yet.

    Attributes:
        bid_id: The aggregator's id of the bid.
        price_micros: CPM in millionths of `currency`; an integer, because money compared as floats is a bug.
        ad_id: Creative to display.
        creative_url: Where the creative (VAST or media) is; `None` when the box has it preloaded.
        creative_hosts: Hosts that the box would contact: of `creative_url`, or those named in an inline VAST document.
        duration_ms: Length of the creative, if told.
        advertiser_domain: The first of the advertiser's domains, lower case.
        notices: Addresses for notices, if it wants any.
    """

    bid_id: str
    price_micros: int
    currency: str
    ad_id: str
    creative_url: str | None = None
    creative_hosts: tuple[str, ...] = ()
    duration_ms: int | None = None
    advertiser_domain: str | None = None
    notices: NoticeUrls | None = None


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
    NOT_SELECTED = 203
    PRIVACY = 204
    CURRENCY = 205
    BELOW_FLOOR = 301
    CREATIVE_REJECTED = 350
    ADVERTISER_BLOCKED = 356
    WON = 500
    OUTBID = 501
    SHED = 510
    EXPIRED = 511
    OVERSIZE = 512
    THROTTLED = 513
    BULKHEAD = 514
    NO_TIME = 515
    CLOSED_EARLY = 516

    @property
    def label(self) -> str:
        """The name used in metrics, tables and on the wire."""
        return self.name.lower()


class BidNotice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One bid that wants to hear how it ended.

    Attributes:
        code: How it ended: `WON`, or why not.
        price_micros: What it offered, in the auction's currency; `None` if it could not be converted.
        push_id: Push of its ad, when it won: a display of it is what `urls.billing` waits for.
    """

    bid_id: str
    code: Outcome
    price_micros: int | None
    urls: NoticeUrls
    push_id: str | None = None


class AggregatorOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row of an auction: what one aggregator did.

    Attributes:
        called: Whether a request left the process.
        propensity: Probability with which the policy calls this aggregator in this context; 1.0 for "call all".
        attempt: 1, and one more for every time the auction was re-issued after a crash.
        tmax_ms: What the aggregator was told; `None` when it was not called.
        latency_us: From sending to the last byte or failure; `None` when it was not called.
        queue_us: From the hand-over of the auction to this call.
        dns_us: Time to resolve the host, when a connection was opened for the call.
        connect_us: Time to connect, TLS included, when a connection was opened for the call.
        first_byte_us: From sending to the head of the reply.
        connection_reused: Whether the call found an open connection.
        response_bytes: Size of the body, decoded.
        bids: Bids in the reply.
        ads_won: How many of them won; more than one only in a break of several ads.
        bid_id: Of the bid that stands for the aggregator: its best one.
        price_micros: Its price in the auction's currency.
        currency: The auction's currency.
        offered_micros: The same price in the currency of the bid, as it was offered.
        offered_currency: That currency.
        rate_id: Which exchange rates were used; `None` when none was needed.
        floor_micros: Lowest price acceptable from this aggregator here.
        no_bid_reason: OpenRTB `nbr`, if told.
        notices: Bids that want to hear how they ended.
        detail: Why, for a human; bounded.
    """

    aggregator: str
    code: Outcome
    called: bool
    propensity: float
    attempt: int = 1
    tmax_ms: int | None = None
    latency_us: int | None = None
    queue_us: int | None = None
    dns_us: int | None = None
    connect_us: int | None = None
    first_byte_us: int | None = None
    connection_reused: bool | None = None
    http_status: int | None = None
    response_bytes: int | None = None
    bids: int = 0
    ads_won: int = 0
    bid_id: str | None = None
    price_micros: int | None = None
    currency: str | None = None
    offered_micros: int | None = None
    offered_currency: str | None = None
    rate_id: str | None = None
    floor_micros: int | None = None
    ad_id: str | None = None
    advertiser_domain: str | None = None
    no_bid_reason: int | None = None
    notices: tuple[BidNotice, ...] = ()
    detail: str | None = None


class WinningAd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An ad that the box is to display.

    Attributes:
        push_id: What the box names when it reports the display; each ad of a break has its own.
    """

    push_id: str
    aggregator: str
    bid_id: str
    ad_id: str
    price_micros: int
    currency: str
    creative_url: str | None = None
    duration_ms: int | None = None
    advertiser_domain: str | None = None


class LateBid(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that came after its auction was closed. Read for its lesson, never awarded.

    It travels with a later decision if that of its own auction has left already.

    Attributes:
        decided_ms: When its auction was decided.
        latency_us: From sending to the last byte.
        price_micros: Best valid price in the auction's currency; `None` for a late no-bid.
        would_have_won: Whether in time it would have won.
    """

    auction_id: str
    aggregator: str
    channel_id: str
    decided_ms: int
    latency_us: int
    price_micros: int | None
    would_have_won: bool


DecisionStatus = Literal["won", "no_bid", "expired", "shed"]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The one record that an opportunity ends in (decision 0004). With ads it *is* the ad push.

    Attributes:
        v: Version of this format.
        push_id: Idempotency key of the push, equal for every copy; `None` without an ad.
        decided_ms: Wall clock of the decision.
        ads: What the box is to display, in this order.
        queue_us: From the causing record's hand-over to the first aggregator call.
        auction_us: From the first call to the decision.
        outcomes: One per configured aggregator, called or not.
        policy: Name of the policy that chose whom to call.
        explored: Whether this auction is of the share in which everyone is called, whatever the policy.
        history_allowed: Whether the viewer's consent lets viewing history leave the house.
        late: Late answers of earlier auctions, of any box.
        signature: Ed25519 signature of the push, URL-safe base64; see `datastreamx.wire.signing`.
        signature_key_id: Which key to verify it with.
    """

    v: int = 2
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
    ads: tuple[WinningAd, ...] = ()
    outcomes: tuple[AggregatorOutcome, ...] = ()
    policy: str = "all"
    model_version: str | None = None
    explored: bool = False
    history_allowed: bool = False
    queue_us: int | None = None
    auction_us: int | None = None
    late: tuple[LateBid, ...] = ()
    signature: str | None = None
    signature_key_id: str | None = None


class DecidedAd(msgspec.Struct, frozen=True, gc=False):
    """The part of a `WinningAd` that competitive separation needs."""

    ad_id: str
    advertiser_domain: str | None = None


class DecidedOutcome(msgspec.Struct, frozen=True, gc=False):
    """The part of an `AggregatorOutcome` that a policy learns from."""

    aggregator: str
    code: Outcome
    called: bool
    price_micros: int | None = None


class DecidedAuction(msgspec.Struct, frozen=True):
    """What has to be known of a logged decision in order not to decide again, and to learn from it.

    Attributes:
        offset: Kafka offset of the box event whose processing emitted the opportunity.
    """

    auction_id: str
    group: int
    offset: int
    channel_id: str
    ads: tuple[DecidedAd, ...] = ()
    outcomes: tuple[DecidedOutcome, ...] = ()
