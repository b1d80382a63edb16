"""The auction house: runs one auction after the other says who is asked, who answered, who won.

Lives on the event loop of the executor, except for `finish`, which the worker calls when a decision leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from datastreamx import metrics
from datastreamx.clock import Clock
from datastreamx.config import Config
from datastreamx.log import get_logger
from datastreamx.model.auction import (
    DecidedAd,
    DecidedAuction,
    Decision,
    LateBid,
    Opportunity,
    Outcome,
    WinningAd,
)
from datastreamx.wire.signing import SigningKey, sign_push
from operators.bidding.auction import CallResult, Lot, Rules, Verdict, undecided, withdraw
from operators.bidding.bidder import Bidder
from operators.bidding.request import history_allowed
from operators.bidding.selection import Context, Selection, SelectionPolicy

_log = get_logger("auction_house")

_ADVERTISERS_KNOWN: Final = 20_000
_LATE_KEPT: Final = 1_000
_LATE_PER_DECISION: Final = 8


class Advertisers:
    """Advertiser of each ad that was pushed lately, the least recently used forgotten first."""

    def __init__(self, capacity: int = _ADVERTISERS_KNOWN) -> None:
        self._capacity = capacity
        self._domains: OrderedDict[str, str] = OrderedDict()

    def learn(self, ads: Sequence[DecidedAd | WinningAd]) -> None:
        """Remember whose ads these are."""
        for ad in ads:
            if ad.advertiser_domain is not None:
                self._domains[ad.ad_id] = ad.advertiser_domain
                self._domains.move_to_end(ad.ad_id)
        while len(self._domains) > self._capacity:
            self._domains.popitem(last=False)

    def domain(self, ad_id: str | None) -> str | None:
        """The ad's advertiser, if known."""
        if ad_id is None or ad_id not in self._domains:
            return None
        self._domains.move_to_end(ad_id)
        return self._domains[ad_id]


@dataclass(frozen=True)
class HouseParts:
    """What the house works with.

    Attributes:
        bidders: One per configured aggregator, in the order of the configuration.
        policy: Chooses whom to ask.
        rules: Judge replies and decide.
        signing_key: Signs pushes, if there is one.
    """

    bidders: tuple[Bidder, ...]
    policy: SelectionPolicy
    rules: Rules
    signing_key: SigningKey | None = None


class AuctionHouse:
    """Runs auctions.

    Args:
        parts: What it works with.
        config: Whole configuration; `auction` and `privacy` matter here.
        clock: Wall clock that deadlines are compared with.
    """

    def __init__(self, parts: HouseParts, config: Config, clock: Clock) -> None:
        self._parts = parts
        self._bidders = {bidder.name: bidder for bidder in parts.bidders}
        self._config = config.auction
        self._privacy = config.privacy
        self._clock = clock
        self._advertisers = Advertisers()
        # What was learned is used on the loop's thread, and taught on a worker's when it reads the log back.
        self._learning = threading.Lock()
        # By partition, so that all that is told of an auction stays in one, and a repetition is recognised there.
        # Appended to on the loop's thread, taken from on the worker's: both are atomic.
        self._late: dict[int, deque[LateBid]] = {}

    @property
    def aggregators(self) -> tuple[str, ...]:
        """Names of all aggregators."""
        return tuple(self._bidders)

    async def keep_warm(self) -> None:
        """Keep connections to all aggregators open; runs until it is cancelled."""
        await asyncio.gather(*(bidder.keep_warm() for bidder in self._bidders.values()))

    async def close(self) -> None:
        """End the calls under way, late ones included, and close all connections."""
        await asyncio.gather(*(bidder.close() for bidder in self._bidders.values()))

    async def auction(self, opportunity: Opportunity, attempt: int, handed_over_ns: int) -> Decision:
        """Ask, wait, judge, decide. Ends `auction.push_reserve_ms` before the deadline at the latest."""
        started_ns = time.perf_counter_ns()
        if self._remaining_ms(opportunity) < self._config.min_call_ms:
            return self.undecided(opportunity, Outcome.EXPIRED, attempt)
        context = self._context(opportunity)
        with self._learning:
            selection = self._parts.policy.select(context)
            last_advertiser = self._advertisers.domain(opportunity.last_ad_id)
        lot = self._lot(opportunity, attempt, selection, last_advertiser)
        round_ = _Round(lot, self._parts.rules, self._config.close_at_micros, self._note_late)
        await self._ask_all(round_, selection, handed_over_ns)
        decision = self._parts.rules.decide(
            lot,
            self._verdicts(round_, selection),
            now_ms=self._clock.now_ms(),
            queue_us=(started_ns - handed_over_ns) // 1000,
            auction_us=(time.perf_counter_ns() - started_ns) // 1000,
        )
        round_.decided(decision)
        self.learn(decision)
        return decision

    def undecided(self, opportunity: Opportunity, reason: Outcome, attempt: int = 1) -> Decision:
        """Decision without an auction: `Outcome.EXPIRED` or `Outcome.SHED`."""
        return undecided(opportunity, reason, self.aggregators, self._clock.now_ms(), attempt=attempt)

    def failed(self, opportunity: Opportunity, attempt: int, _error: Exception) -> Decision:
        """Decision of an auction that failed by a fault of ours: nobody wins, and the flow goes on.

        Had it stopped, the opportunity would come again after the restart, and fail again.
        """
        now_ms = self._clock.now_ms()
        detail = "the auction failed"
        return undecided(opportunity, Outcome.ERROR, self.aggregators, now_ms, attempt=attempt, detail=detail)

    def finish(self, decision: Decision, now_ms: int) -> Decision:
        """Last look, when the decision leaves: withdraw what is too late, add what is known by now, sign.

        Too late is what has less than half of `auction.push_reserve_ms` left for its way to the box.
        """
        if decision.ads and now_ms > decision.deadline_ms - self._config.push_reserve_ms // 2:
            decision = withdraw(decision, now_ms)
        late = self._take_late(decision.partition)
        if late:
            decision = replace(decision, late=late)
        key = self._parts.signing_key
        return sign_push(decision, key) if key is not None else decision

    def learn(self, decided: DecidedAuction | Decision) -> None:
        """Take notice of a decided auction, also of one that an earlier process has decided."""
        with self._learning:
            self._advertisers.learn(decided.ads)
            self._parts.policy.learn(decided.channel_id, decided.outcomes)

    def _take_late(self, partition: int) -> tuple[LateBid, ...]:
        waiting = self._late.get(partition)
        if not waiting:
            return ()
        late: list[LateBid] = []
        # Not by its length: several workers may take from it.
        with contextlib.suppress(IndexError):
            while len(late) < _LATE_PER_DECISION:
                late.append(waiting.popleft())
        return tuple(late)

    def _remaining_ms(self, opportunity: Opportunity) -> int:
        return opportunity.deadline_ms - self._config.push_reserve_ms - self._clock.now_ms()

    def _context(self, opportunity: Opportunity) -> Context:
        allowed = history_allowed(opportunity.consent, self._privacy)
        return Context(
            auction_id=opportunity.auction_id,
            channel_id=opportunity.channel_id,
            last_channel_id=opportunity.last_channel_id if allowed else None,
            last_ad_id=opportunity.last_ad_id if allowed else None,
            trigger=opportunity.trigger,
            opportunity_ms=opportunity.opportunity_ms,
            slot_ms=opportunity.slot_ms,
        )

    def _lot(self, opportunity: Opportunity, attempt: int, selection: Selection, last_advertiser: str | None) -> Lot:
        rules = self._parts.rules
        return Lot(
            opportunity=opportunity,
            attempt=attempt,
            aggregators=self.aggregators,
            max_ads=rules.max_ads(opportunity.slot_ms),
            floors=rules.floors_for(opportunity, self.aggregators),
            blocked=rules.blocked,
            separated=rules.separated_from(last_advertiser),
            history_allowed=history_allowed(opportunity.consent, self._privacy),
            policy=selection.policy,
            model_version=selection.model_version,
            explored=selection.explored,
        )

    async def _ask_all(self, round_: _Round, selection: Selection, handed_over_ns: int) -> None:
        """Tier by tier, until somebody bids or the time is over."""
        tiers = sorted({choice.tier for choice in selection.choices if choice.tier is not None})
        for tier in tiers:
            remaining_ms = self._remaining_ms(round_.lot.opportunity)
            bidders = [self._bidders[choice.aggregator] for choice in selection.choices if choice.tier == tier]
            await round_.ask(bidders, remaining_ms, handed_over_ns)
            if round_.has_valid_bid:
                return

    def _verdicts(self, round_: _Round, selection: Selection) -> list[Verdict]:
        bidding = [name for name, verdict in round_.verdicts.items() if verdict.offers]
        verdicts = []
        for choice, propensity in zip(selection.choices, selection.propensities(bidding), strict=True):
            verdict = round_.verdicts.get(choice.aggregator)
            if verdict is None:
                verdict = round_.judge(self._bidders[choice.aggregator].not_selected())
            if propensity != 1.0:
                result = replace(verdict.result, propensity=verdict.result.propensity * propensity)
                verdict = replace(verdict, result=result)
            verdicts.append(verdict)
        return verdicts

    def _note_late(self, verdict: Verdict, decision: Decision, lot: Lot) -> None:
        result = verdict.result
        won = self._parts.rules.would_have_won(verdict, decision, lot)
        answer = ("would_have_won" if won else "bid") if verdict.offers else "no_bid"
        metrics.AGGREGATOR_LATE.labels(result.aggregator, answer).inc()
        self._late.setdefault(decision.partition, deque(maxlen=_LATE_KEPT)).append(
            LateBid(
                auction_id=decision.auction_id,
                aggregator=result.aggregator,
                channel_id=decision.channel_id,
                decided_ms=decision.decided_ms,
                latency_us=result.latency_us or 0,
                price_micros=verdict.offers[0].price_micros if verdict.offers else None,
                would_have_won=won,
            )
        )


class _Round:
    """One auction while it runs: whom it waits for, and what they said."""

    def __init__(
        self,
        lot: Lot,
        rules: Rules,
        close_at_micros: int | None,
        note_late: Callable[[Verdict, Decision, Lot], None],
    ) -> None:
        self.lot = lot
        self.verdicts: dict[str, Verdict] = {}
        self._rules = rules
        self._close_at_micros = close_at_micros
        self._note_late = note_late
        self._awaited: set[str] = set()
        self._under_way: dict[str, CallResult] = {}
        self._asked_ns = 0
        self._ended: asyncio.Future[None] | None = None
        self._decision: Decision | None = None
        # Answers that came too late for their aggregator's own time-out, but before the auction was decided.
        self._early_late: list[CallResult] = []

    @property
    def has_valid_bid(self) -> bool:
        """Whether somebody has made a bid that can win."""
        return any(verdict.offers for verdict in self.verdicts.values())

    async def ask(self, bidders: list[Bidder], remaining_ms: int, handed_over_ns: int) -> None:
        """Ask all of them at once and wait until each has reported, or a bid closes the auction."""
        self._ended = asyncio.get_running_loop().create_future()
        self._awaited = {bidder.name for bidder in bidders}
        self._asked_ns = time.perf_counter_ns()
        for bidder in bidders:
            under_way = bidder.ask(
                self.lot, remaining_ms, handed_over_ns, report=self._report, late=self._answered_late
            )
            if under_way is not None:
                self._under_way[bidder.name] = under_way
        await self._ended

    def decided(self, decision: Decision) -> None:
        """Tell of the late answers so far, and from now on of each as it comes."""
        self._decision = decision
        for result in self._early_late:
            self._answered_late(result)
        self._early_late.clear()

    def judge(self, result: CallResult) -> Verdict:
        """Judge a result. A reply that our own rules cannot digest is the aggregator's error, not the auction's end."""
        try:
            return self._rules.judge(result, self.lot)
        except Exception as error:  # noqa: BLE001 - see above
            # Kind and place; not its message, which may quote the reply.
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("judge_failed", aggregator=result.aggregator, error=type(error).__name__, where=where)
            failed = replace(result, failure=Outcome.ERROR, bids=(), detail="the reply could not be judged")
            return self._rules.judge(failed, self.lot)

    def _report(self, result: CallResult) -> None:
        if result.aggregator not in self._awaited:
            # The auction was closed early; what would have been in time then is as good as late.
            self._answered_late(result)
            return
        self._awaited.discard(result.aggregator)
        verdict = self.verdicts[result.aggregator] = self.judge(result)
        if self._closes(verdict):
            self._close_early()
        if not self._awaited and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _closes(self, verdict: Verdict) -> bool:
        """Whether this bid ends the auction; a break of several ads always waits for all that can fill it."""
        if self._close_at_micros is None or not verdict.offers or self.lot.max_ads > 1:
            return False
        return verdict.offers[0].price_micros >= self._close_at_micros

    def _close_early(self) -> None:
        latency_us = (time.perf_counter_ns() - self._asked_ns) // 1000
        for name in self._awaited:
            unanswered = replace(self._under_way[name], failure=Outcome.CLOSED_EARLY, latency_us=latency_us)
            self.verdicts[name] = self.judge(unanswered)
        self._awaited.clear()

    def _answered_late(self, result: CallResult) -> None:
        if result.failure is not None:
            return
        if self._decision is None:
            self._early_late.append(result)
        else:
            self._note_late(self.judge(result), self._decision, self.lot)
