"""The auction itself: what to ask, which replies count, who wins. Pure.

First price, sealed bids: the highest valid price at or above the floor wins and pays its own bid. Prices are integers
(millionths of the currency); equal ones are settled by a hash of the auction id, so that no aggregator profits from its
place in the configuration and a replay of the same bids picks the same winner.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from datastreamx.config import AuctionConfig
from datastreamx.model.auction import (
    AggregatorOutcome,
    Bid,
    BidRequest,
    Decision,
    DecisionStatus,
    Opportunity,
    Outcome,
    Winner,
)
from datastreamx.model.identity import push_id


class CallResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one aggregator did in one auction.

    Attributes:
        failure: Why there is no reply to judge; `None` when there is one.
        bids: Bids in the reply, empty for an honest no-bid.
    """

    aggregator: str
    called: bool
    failure: Outcome | None = None
    bids: tuple[Bid, ...] = ()
    tmax_ms: int | None = None
    latency_us: int | None = None
    http_status: int | None = None
    response_bytes: int | None = None
    detail: str | None = None


def time_for_calls_ms(opportunity: Opportunity, now_ms: int, config: AuctionConfig) -> int:
    """Milliseconds that aggregators may take, seen at `now_ms`; below `min_call_ms` asking is pointless.

    The deadline is absolute, so whatever the log, the queue or a restart has cost is already spent.
    """
    return min(config.timeout_ms, opportunity.deadline_ms - config.push_reserve_ms - now_ms)


def bid_request(opportunity: Opportunity, tmax_ms: int, config: AuctionConfig) -> BidRequest:
    """What adapters may know of the opportunity: everything but the raw box id."""
    return BidRequest(
        auction_id=opportunity.auction_id,
        box_key=opportunity.box_key,
        trigger=opportunity.trigger,
        opportunity_ms=opportunity.opportunity_ms,
        channel_id=opportunity.channel_id,
        last_channel_id=opportunity.last_channel_id,
        last_ad_id=opportunity.last_ad_id,
        break_id=opportunity.break_id,
        slot_ms=opportunity.slot_ms,
        tmax_ms=tmax_ms,
        floor_micros=config.floor_micros,
        currency=config.currency,
    )


def objection(bid: Bid, opportunity: Opportunity, config: AuctionConfig) -> tuple[Outcome, str] | None:
    """Why a bid cannot win, or `None` if it can."""
    if bid.currency != config.currency:
        return Outcome.CURRENCY, f"price is in {bid.currency}, not {config.currency}"
    if bid.price_micros <= 0:
        return Outcome.INVALID_RESPONSE, "the price is not above zero"
    if bid.price_micros < config.floor_micros:
        return Outcome.BELOW_FLOOR, f"the price is below the floor of {config.floor_micros} micros"
    if bid.duration_ms is not None and bid.duration_ms > opportunity.slot_ms:
        return Outcome.CREATIVE_REJECTED, f"{bid.duration_ms} ms do not fit the slot of {opportunity.slot_ms} ms"
    return None


def undecided(opportunity: Opportunity, reason: Outcome, aggregators: tuple[str, ...], now_ms: int) -> Decision:
    """Decision of an opportunity for which nobody was asked: `Outcome.EXPIRED` or `Outcome.SHED`."""
    results = tuple(CallResult(aggregator=name, called=False, failure=reason) for name in aggregators)
    status: DecisionStatus = "expired" if reason is Outcome.EXPIRED else "shed"
    outcomes = tuple(_outcome(result, reason, None, attempt=1) for result in results)
    return _decision(opportunity, status, outcomes, now_ms)


def decide(  # noqa: PLR0913 - one parameter per fact, all but the first three by name
    opportunity: Opportunity,
    results: tuple[CallResult, ...],
    config: AuctionConfig,
    *,
    attempt: int,
    now_ms: int,
    queue_us: int,
    auction_us: int,
) -> Decision:
    """Judge all replies and pick the winner."""
    judged = [(result, *_judge(result, opportunity, config)) for result in results]
    valid = [(bid, result.aggregator) for result, code, bid, _ in judged if code is Outcome.OUTBID and bid is not None]
    best = max(valid, key=lambda entry: _rank(opportunity.auction_id, *entry), default=None)
    outcomes = tuple(
        _outcome(
            msgspec.structs.replace(result, detail=detail or result.detail),
            Outcome.WON if best is not None and result.aggregator == best[1] else code,
            bid,
            attempt,
        )
        for result, code, bid, detail in judged
    )
    return _decision(
        opportunity,
        "won" if best else "no_bid",
        outcomes,
        now_ms,
        winner=_winner(*best) if best else None,
        queue_us=queue_us,
        auction_us=auction_us,
    )


def withdraw(decision: Decision, now_ms: int) -> Decision:
    """The same decision without its push, because its deadline has passed before it could leave."""
    outcomes = tuple(
        msgspec.structs.replace(outcome, code=Outcome.EXPIRED, detail="won, but the deadline had passed")
        if outcome.code is Outcome.WON
        else outcome
        for outcome in decision.outcomes
    )
    return msgspec.structs.replace(
        decision, status="expired", push_id=None, winner=None, outcomes=outcomes, decided_ms=now_ms
    )


def _judge(
    result: CallResult, opportunity: Opportunity, config: AuctionConfig
) -> tuple[Outcome, Bid | None, str | None]:
    """Outcome of an aggregator before the comparison, the bid that stands for it, and why."""
    if result.failure is not None:
        return result.failure, None, None
    if not result.bids:
        return Outcome.NO_BID, None, None
    by_price = sorted(result.bids, key=lambda bid: bid.price_micros, reverse=True)
    objections = [objection(bid, opportunity, config) for bid in by_price]
    for bid, found in zip(by_price, objections, strict=True):
        if found is None:
            return Outcome.OUTBID, bid, None
    code, detail = objections[0] or (Outcome.ERROR, "")
    return code, by_price[0], detail


def _rank(auction_id: str, bid: Bid, aggregator: str) -> tuple[int, bytes]:
    return bid.price_micros, blake2b(f"{auction_id}\0{aggregator}".encode(), digest_size=8).digest()


def _winner(bid: Bid, aggregator: str) -> Winner:
    return Winner(
        aggregator=aggregator,
        bid_id=bid.bid_id,
        ad_id=bid.ad_id,
        price_micros=bid.price_micros,
        currency=bid.currency,
        creative_url=bid.creative_url,
        duration_ms=bid.duration_ms,
        advertiser_domain=bid.advertiser_domain,
    )


def _outcome(result: CallResult, code: Outcome, bid: Bid | None, attempt: int) -> AggregatorOutcome:
    return AggregatorOutcome(
        aggregator=result.aggregator,
        code=code,
        called=result.called,
        propensity=1.0,
        attempt=attempt,
        tmax_ms=result.tmax_ms,
        latency_us=result.latency_us,
        http_status=result.http_status,
        response_bytes=result.response_bytes,
        bid_id=bid.bid_id if bid else None,
        price_micros=bid.price_micros if bid else None,
        currency=bid.currency if bid else None,
        ad_id=bid.ad_id if bid else None,
        detail=result.detail,
    )


def _decision(  # noqa: PLR0913 - one parameter per fact, the optional ones by name
    opportunity: Opportunity,
    status: DecisionStatus,
    outcomes: tuple[AggregatorOutcome, ...],
    now_ms: int,
    *,
    winner: Winner | None = None,
    queue_us: int | None = None,
    auction_us: int | None = None,
) -> Decision:
    return Decision(
        auction_id=opportunity.auction_id,
        box_id=opportunity.box_id,
        box_key=opportunity.box_key,
        partition=opportunity.partition,
        group=opportunity.group,
        offset=opportunity.offset,
        emitted_ms=opportunity.emitted_ms,
        trigger=opportunity.trigger,
        opportunity_ms=opportunity.opportunity_ms,
        deadline_ms=opportunity.deadline_ms,
        decided_ms=now_ms,
        slot_ms=opportunity.slot_ms,
        channel_id=opportunity.channel_id,
        last_channel_id=opportunity.last_channel_id,
        last_ad_id=opportunity.last_ad_id,
        break_id=opportunity.break_id,
        status=status,
        push_id=push_id(opportunity.auction_id) if winner else None,
        winner=winner,
        outcomes=outcomes,
        queue_us=queue_us,
        auction_us=auction_us,
    )
