"""The auction itself: which replies count, who wins, what is written down about everybody. Pure.

First price, sealed bids: the highest valid price at or above the floor wins and pays its own bid; a break takes the set
of ads that brings the most (`pods`). Prices are integers, millionths of the auction's currency. Equal ones are settled
by a hash of the auction id, so that no aggregator profits from its place in the configuration and a replay of the same
bids picks the same winner.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from datastreamx.config import AuctionConfig
from datastreamx.errors import CrashError
from datastreamx.hosts import in_domains, normal_host
from datastreamx.model.auction import (
    AggregatorOutcome,
    Bid,
    BidNotice,
    Decision,
    DecisionStatus,
    Opportunity,
    Outcome,
    WinningAd,
)
from datastreamx.model.identity import push_id
from operators.bidding.floors import Floors
from operators.bidding.objections import Objection, Terms, advertiser_of, objection, price_of
from operators.bidding.pods import Candidate, choose
from operators.bidding.rates import RateTable

MAX_NOTICES = 16
"""Bids of one aggregator that hear how they ended: winners first, then by price."""

_MAX_DETAIL_CHARS = 200


class CallResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one aggregator did in one auction. Times and sizes are those of `AggregatorOutcome`.

    Attributes:
        failure: Why there is no reply to judge; `None` when there is one.
        bids: Bids in the reply, empty for an honest no-bid.
        propensity: Probability with which the policy calls this aggregator in this context.
    """

    aggregator: str
    called: bool
    failure: Outcome | None = None
    bids: tuple[Bid, ...] = ()
    propensity: float = 1.0
    tmax_ms: int | None = None
    latency_us: int | None = None
    queue_us: int | None = None
    dns_us: int | None = None
    connect_us: int | None = None
    first_byte_us: int | None = None
    connection_reused: bool | None = None
    http_status: int | None = None
    response_bytes: int | None = None
    no_bid_reason: int | None = None
    detail: str | None = None


class Lot(msgspec.Struct, frozen=True, kw_only=True):
    """What is auctioned, and on which terms.

    Attributes:
        attempt: 1, and one more for every time the auction was issued again after a crash.
        aggregators: All that are configured, called or not.
        max_ads: Most ads that may fill the slot; see `Rules.max_ads`.
        floors: Lowest acceptable price by aggregator; see `Rules.floors_for`.
        blocked: Advertiser domains that cannot win, as configured; see `Rules.blocked`.
        separated: Those that cannot win because the viewer has just seen an ad of theirs; see `Rules.separated_from`.
        history_allowed: Whether the viewer's consent lets viewing history leave the house.
        policy: Name of the policy that chose whom to call.
        model_version: Of that policy's model, if it has one.
        explored: Whether everyone is called, whatever the policy.
    """

    opportunity: Opportunity
    attempt: int
    aggregators: tuple[str, ...]
    max_ads: int
    floors: dict[str, int]
    blocked: frozenset[str]
    separated: frozenset[str]
    history_allowed: bool
    policy: str
    model_version: str | None
    explored: bool


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A bid that may win.

    Attributes:
        price_micros: In the auction's currency.
        rate_id: Which exchange rates made it so; `None` when none was needed.
        rank: Settles equal prices, the higher first; no two offers of an auction have the same.
    """

    bid: Bid
    aggregator: str
    price_micros: int
    rate_id: str | None
    rank: tuple[bytes, int]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A bid that cannot win, and why.

    Attributes:
        price_micros: In the auction's currency; `None` if it could not be told.
    """

    bid: Bid
    price_micros: int | None
    rate_id: str | None
    code: Outcome
    detail: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One aggregator's reply, judged by itself.

    Attributes:
        code: Its outcome unless it wins; `OUTBID` when it has a valid offer.
        offers: Bids that may win, the best first.
        refused: The others, the highest price first.
    """

    result: CallResult
    code: Outcome
    offers: tuple[Offer, ...] = ()
    refused: tuple[Refusal, ...] = ()


class Rules:
    """How auctions are judged and decided: the same for all auctions of a configuration.

    Args:
        config: Floors, currency, blocks and limits.
        rates: Exchange rates; what it says may change between two calls, all else never does.
        standard_slot_ms: Length of a single slot: a longer one is a break of several ads, and an ad that does not tell
            its length is taken to be so long.
    """

    def __init__(self, config: AuctionConfig, rates: RateTable, standard_slot_ms: int) -> None:
        self._config = config
        self._rates = rates
        self._standard_slot_ms = standard_slot_ms
        self._floors = Floors(config)
        self._blocked = frozenset(normal_host(domain) for domain in config.blocked_advertisers)

    def max_ads(self, slot_ms: int) -> int:
        """Most ads that may fill a slot of this length."""
        return self._config.max_ads_per_break if slot_ms > self._standard_slot_ms else 1

    def floors_for(self, opportunity: Opportunity, aggregators: Sequence[str]) -> dict[str, int]:
        """Lowest acceptable price of each aggregator."""
        channel_id, opportunity_ms = opportunity.channel_id, opportunity.opportunity_ms
        return {name: self._floors.floor_micros(channel_id, opportunity_ms, name) for name in aggregators}

    @property
    def blocked(self) -> frozenset[str]:
        """Domains whose ads never win."""
        return self._blocked

    def separated_from(self, last_advertiser: str | None) -> frozenset[str]:
        """Domains whose ads cannot win after an ad of `last_advertiser`."""
        if not self._config.separate_advertisers or last_advertiser is None:
            return frozenset()
        return frozenset({advertiser_of(last_advertiser)})

    def judge(self, result: CallResult, lot: Lot) -> Verdict:
        """Look at one reply by itself, as soon as it is there."""
        if result.failure is not None:
            return Verdict(result=result, code=result.failure)
        if not result.bids:
            return Verdict(result=result, code=Outcome.NO_BID)
        terms = Terms(
            floor_micros=lot.floors[result.aggregator],
            max_price_micros=self._config.max_price_micros,
            slot_ms=lot.opportunity.slot_ms,
            blocked=lot.blocked,
            separated=lot.separated,
            creative_hosts=self._config.creative_hosts,
        )
        tie_break = _tie_break(lot.opportunity.auction_id, result.aggregator)
        offers: list[Offer] = []
        refused: list[Refusal] = []
        for place, bid in enumerate(result.bids):
            judged = self._judge_bid(bid, terms, result.aggregator, (tie_break, -place))
            if isinstance(judged, Offer):
                offers.append(judged)
            else:
                refused.append(judged)
        offers.sort(key=lambda offer: (offer.price_micros, offer.rank), reverse=True)
        refused.sort(key=lambda refusal: -1 if refusal.price_micros is None else refusal.price_micros, reverse=True)
        code = Outcome.OUTBID if offers else refused[0].code
        return Verdict(result=result, code=code, offers=tuple(offers), refused=tuple(refused))

    def decide(
        self,
        lot: Lot,
        verdicts: Sequence[Verdict],
        *,
        now_ms: int,
        queue_us: int,
        auction_us: int,
    ) -> Decision:
        """Pick the winners, and write down how everybody ended.

        Args:
            lot: What was auctioned.
            verdicts: One per aggregator of the lot, in any order.
            now_ms: Wall clock of the decision.
            queue_us: From the hand-over of the auction to its first call.
            auction_us: From the first call to now.

        Raises:
            CrashError: An aggregator has no verdict, or several: whoever gathered them is at fault.
        """
        by_name = {verdict.result.aggregator: verdict for verdict in verdicts}
        if len(verdicts) != len(lot.aggregators) or by_name.keys() != set(lot.aggregators):
            raise CrashError(
                f"an auction needs one verdict for each of {lot.aggregators}, "
                f"but got {[verdict.result.aggregator for verdict in verdicts]}"
            )
        offers = [offer for verdict in verdicts for offer in verdict.offers]
        chosen = self._choose([self._candidate(offer) for offer in offers], lot)
        auction_id = lot.opportunity.auction_id
        pushes = {offers[index].rank: push_id(auction_id, place) for place, index in enumerate(chosen)}
        return _decision(
            lot.opportunity,
            "won" if chosen else "no_bid",
            tuple(self._outcome(by_name[name], lot, pushes) for name in lot.aggregators),
            now_ms,
            push_id=push_id(auction_id) if chosen else None,
            ads=tuple(self._ad(offers[index], pushes) for index in chosen),
            policy=lot.policy,
            model_version=lot.model_version,
            explored=lot.explored,
            history_allowed=lot.history_allowed,
            queue_us=queue_us,
            auction_us=auction_us,
        )

    def would_have_won(self, verdict: Verdict, decision: Decision, lot: Lot) -> bool:
        """Whether a late reply would have won an ad, had it come in time.

        Exact for a single slot. In a break it is compared with the ads that won and not with all that were offered.
        """
        if decision.status not in {"won", "no_bid"} or not verdict.offers:
            return False
        winners = [
            self._candidate_of_ad(ad, (_tie_break(decision.auction_id, ad.aggregator), -place))
            for place, ad in enumerate(decision.ads)
        ]
        late = [self._candidate(offer) for offer in verdict.offers]
        return any(index >= len(winners) for index in self._choose([*winners, *late], lot))

    def _judge_bid(self, bid: Bid, terms: Terms, aggregator: str, rank: tuple[bytes, int]) -> Offer | Refusal:
        rates = self._rates.current()
        price = price_of(bid, self._config.currency, rates, self._rates.unusable if rates is None else None)
        if isinstance(price, Objection):
            return Refusal(bid=bid, price_micros=None, rate_id=None, code=price.code, detail=price.detail)
        found = objection(bid, price.micros, terms)
        if found is not None:
            return Refusal(
                bid=bid, price_micros=price.micros, rate_id=price.rate_id, code=found.code, detail=found.detail
            )
        return Offer(bid=bid, aggregator=aggregator, price_micros=price.micros, rate_id=price.rate_id, rank=rank)

    def _choose(self, candidates: list[Candidate], lot: Lot) -> list[int]:
        return choose(
            candidates, slot_ms=lot.opportunity.slot_ms, max_ads=lot.max_ads, unknown_ms=self._standard_slot_ms
        )

    def _candidate(self, offer: Offer) -> Candidate:
        bid = offer.bid
        advertiser = self._separated(bid.advertiser_domain, offer.aggregator, bid.ad_id)
        return Candidate(offer.price_micros, bid.duration_ms, advertiser, offer.rank)

    def _candidate_of_ad(self, ad: WinningAd, rank: tuple[bytes, int]) -> Candidate:
        advertiser = self._separated(ad.advertiser_domain, ad.aggregator, ad.ad_id)
        return Candidate(ad.price_micros, ad.duration_ms, advertiser, rank)

    def _separated(self, domain: str | None, aggregator: str, ad_id: str) -> str | None:
        """Whom an ad keeps out of its break. An unknown advertiser keeps out only the same ad."""
        if not self._config.separate_advertisers:
            return None
        return advertiser_of(domain) if domain is not None else f"{aggregator}\0{ad_id}"

    def _ad(self, offer: Offer, pushes: dict[tuple[bytes, int], str]) -> WinningAd:
        return WinningAd(
            push_id=pushes[offer.rank],
            aggregator=offer.aggregator,
            bid_id=offer.bid.bid_id,
            ad_id=offer.bid.ad_id,
            price_micros=offer.price_micros,
            currency=self._config.currency,
            creative_url=offer.bid.creative_url,
            duration_ms=offer.bid.duration_ms,
            advertiser_domain=offer.bid.advertiser_domain,
        )

    def _outcome(self, verdict: Verdict, lot: Lot, pushes: dict[tuple[bytes, int], str]) -> AggregatorOutcome:
        result = verdict.result
        won = [offer for offer in verdict.offers if offer.rank in pushes]
        # The bid that stands for the aggregator: what it won with, else the best that it had.
        mine: tuple[Offer | Refusal, ...] = (*won, *verdict.offers, *verdict.refused)
        standing = mine[0] if mine else None
        bid = standing.bid if standing else None
        return AggregatorOutcome(
            aggregator=result.aggregator,
            code=Outcome.WON if won else verdict.code,
            called=result.called,
            propensity=result.propensity,
            attempt=lot.attempt,
            tmax_ms=result.tmax_ms,
            latency_us=result.latency_us,
            queue_us=result.queue_us,
            dns_us=result.dns_us,
            connect_us=result.connect_us,
            first_byte_us=result.first_byte_us,
            connection_reused=result.connection_reused,
            http_status=result.http_status,
            response_bytes=result.response_bytes,
            bids=len(result.bids),
            ads_won=len(won),
            bid_id=bid.bid_id if bid else None,
            price_micros=standing.price_micros if standing else None,
            currency=self._config.currency if standing and standing.price_micros is not None else None,
            offered_micros=bid.price_micros if bid else None,
            offered_currency=bid.currency if bid else None,
            rate_id=standing.rate_id if standing else None,
            floor_micros=lot.floors[result.aggregator],
            ad_id=bid.ad_id if bid else None,
            advertiser_domain=bid.advertiser_domain if bid else None,
            no_bid_reason=result.no_bid_reason,
            notices=_notices(verdict, won, pushes, lot.blocked) if result.bids else (),
            detail=_detail(verdict),
        )


def undecided(  # noqa: PLR0913 - one parameter per fact, the optional ones by name
    opportunity: Opportunity,
    reason: Outcome,
    aggregators: Sequence[str],
    now_ms: int,
    *,
    attempt: int = 1,
    detail: str | None = None,
) -> Decision:
    """Decision of an opportunity that was not auctioned.

    Args:
        opportunity: Which.
        reason: `EXPIRED`, `SHED`, or `ERROR` for an auction that failed as a whole. Of the last it is not known who was
            called; nobody counts as called.
        aggregators: All that are configured.
        now_ms: Wall clock.
        attempt: As in `Lot`.
        detail: Why, for a human.
    """
    statuses: dict[Outcome, DecisionStatus] = {Outcome.EXPIRED: "expired", Outcome.SHED: "shed"}
    outcomes = tuple(
        AggregatorOutcome(
            aggregator=name,
            code=reason,
            called=False,
            propensity=1.0,
            attempt=attempt,
            detail=detail[:_MAX_DETAIL_CHARS] if detail else None,
        )
        for name in aggregators
    )
    return _decision(opportunity, statuses.get(reason, "no_bid"), outcomes, now_ms)


def withdraw(decision: Decision, now_ms: int) -> Decision:
    """The same decision without its push, because its deadline has passed before it could leave."""
    return msgspec.structs.replace(
        decision,
        status="expired",
        push_id=None,
        ads=(),
        outcomes=tuple(_withdrawn(outcome) for outcome in decision.outcomes),
        decided_ms=now_ms,
        signature=None,
        signature_key_id=None,
    )


def _withdrawn(outcome: AggregatorOutcome) -> AggregatorOutcome:
    # Nobody has won: those who were outbid are to hear that, too, and not what a winner paid.
    notices = tuple(
        msgspec.structs.replace(notice, code=Outcome.EXPIRED, push_id=None)
        if notice.code in {Outcome.WON, Outcome.OUTBID}
        else notice
        for notice in outcome.notices
    )
    if outcome.code is not Outcome.WON:
        return msgspec.structs.replace(outcome, notices=notices) if notices else outcome
    return msgspec.structs.replace(
        outcome, code=Outcome.EXPIRED, ads_won=0, notices=notices, detail="won, but the deadline had passed"
    )


def _notices(
    verdict: Verdict, won: list[Offer], pushes: dict[tuple[bytes, int], str], blocked: frozenset[str]
) -> tuple[BidNotice, ...]:
    lost = [offer for offer in verdict.offers if offer.rank not in pushes]
    ended: list[tuple[Offer | Refusal, Outcome, str | None]] = [
        *((offer, Outcome.WON, pushes[offer.rank]) for offer in won),
        *((offer, Outcome.OUTBID, None) for offer in lost),
        *((refusal, _told_code(refusal, blocked), None) for refusal in verdict.refused),
    ]
    notices = [
        BidNotice(bid_id=one.bid.bid_id, code=code, price_micros=one.price_micros, urls=one.bid.notices, push_id=push)
        for one, code, push in ended
        if one.bid.notices is not None
    ]
    return tuple(notices[:MAX_NOTICES])


def _told_code(refusal: Refusal, blocked: frozenset[str]) -> Outcome:
    """What the aggregator hears: that the viewer has just seen this advertiser is viewing history, and stays here."""
    if refusal.code is Outcome.ADVERTISER_BLOCKED and not in_domains(refusal.bid.advertiser_domain or "", blocked):
        return Outcome.CREATIVE_REJECTED
    return refusal.code


def _detail(verdict: Verdict) -> str | None:
    """Why, for a human: what the caller said, and the objection to the dearest bid that was refused."""
    said = [verdict.result.detail] if verdict.result.detail else []
    if verdict.refused:
        first = verdict.refused[0]
        said.append(f"another bid was refused ({first.code.label}): {first.detail}" if verdict.offers else first.detail)
    return "; ".join(said)[:_MAX_DETAIL_CHARS] or None


def _decision(  # noqa: PLR0913 - one parameter per fact, the optional ones by name
    opportunity: Opportunity,
    status: DecisionStatus,
    outcomes: tuple[AggregatorOutcome, ...],
    now_ms: int,
    *,
    push_id: str | None = None,
    ads: tuple[WinningAd, ...] = (),
    policy: str = "all",
    model_version: str | None = None,
    explored: bool = False,
    history_allowed: bool = False,
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
        push_id=push_id,
        ads=ads,
        outcomes=outcomes,
        policy=policy,
        model_version=model_version,
        explored=explored,
        history_allowed=history_allowed,
        queue_us=queue_us,
        auction_us=auction_us,
    )


def _tie_break(auction_id: str, aggregator: str) -> bytes:
    return blake2b(f"{auction_id}\0{aggregator}".encode(), digest_size=8).digest()
