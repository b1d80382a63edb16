"""Asks a configured aggregator once, through the very parts that auctions are made of."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from aggregators.contract import Adapter, Answer, HttpCall, HttpReply, ReplyError
from aggregators.registry import build_adapter
from datastreamx.cli.aggregator.observed import Exchange, bid_told, exchange_told, phases_told, trouble_of
from datastreamx.cli.aggregator.report import FlawedTold, ProbeTold
from datastreamx.clock import Clock
from datastreamx.config import AggregatorConfig, Config
from datastreamx.errors import ConfigError
from datastreamx.model.auction import BidRequest, Opportunity, Outcome
from datastreamx.model.identity import box_key
from operators.bidding.auction import CallResult, Lot, Rules, Verdict
from operators.bidding.bidder import Bidder
from operators.bidding.caller import Caller, Phases
from operators.bidding.rates import RateTable

AUCTION_PREFIX: Final = "7e577e57"
"""How the id of every probe begins: 32 hex digits, as those of real auctions, because partners check the form."""

BOX_ID: Final = "datastreamx-test"
"""Box of every probe; aggregators get its pseudonym."""


@dataclass(frozen=True)
class Terms:
    """What is offered. `None`: as the configuration has it."""

    channel_id: str
    slot_ms: int | None = None
    floor_micros: int | None = None


def probe(config: Config, aggregator: AggregatorConfig, terms: Terms, clock: Clock) -> ProbeTold:
    """Ask once, wait as long as an auction would, and then for the grace period.

    No viewing history is sent, because there is none, and no notice, whatever the answer asks for. Where the dialect
    can say so, the request is marked as a test.

    Raises:
        ConfigError: The adapter's options, a certificate or the file of exchange rates cannot be used.
    """
    marked, adapter = _marked(aggregator)
    watched = _WatchedAdapter(adapter)
    caller = _WatchedCaller(aggregator, config.auction.max_response_bytes, clock)
    auction = config.auction
    rates_file = None if auction.rates_file is None else Path(auction.rates_file)
    rates = RateTable(rates_file, auction.currency, auction.rates_max_age_hours, clock)
    rules = Rules(auction, rates, config.viewing.slot_ms)
    lot = _lot(config, aggregator.name, terms, rules, clock.now_ms())
    asked = asyncio.run(_ask(config, Bidder(aggregator, watched, caller, auction, config.privacy), lot))
    result = asked.late or asked.result
    verdict = _judge(rules, result, lot)
    outcome = (Outcome.WON if verdict.offers else verdict.code).label
    return ProbeTold(
        aggregator=aggregator.name,
        auction_id=lot.opportunity.auction_id,
        marked=marked,
        channel_id=lot.opportunity.channel_id,
        slot_ms=lot.opportunity.slot_ms,
        max_ads=lot.max_ads,
        floor_micros=lot.floors[aggregator.name],
        currency=auction.currency,
        timeout_ms=asked.wait_ms,
        tmax_ms=result.tmax_ms,
        exchanges=[exchange_told(one, aggregator) for one in caller.exchanges],
        phases=phases_told(result),
        outcome=outcome if asked.late is None else Outcome.TIMEOUT.label,
        detail=verdict.result.detail,
        no_bid_reason=result.no_bid_reason,
        answered_late=asked.late is not None,
        late_outcome=None if asked.late is None else outcome,
        trouble=trouble_of([one.error for one in caller.exchanges]),
        bids=[
            *(bid_told(offer, aggregator) for offer in verdict.offers),
            *(bid_told(refusal, aggregator) for refusal in verdict.refused),
        ],
        flawed=[FlawedTold(code=error.code.label, detail=error.detail) for error in watched.flawed],
    )


class _WatchedCaller(Caller):
    """Writes down what passes."""

    def __init__(self, config: AggregatorConfig, max_response_bytes: int, clock: Clock) -> None:
        super().__init__(config, max_response_bytes, clock)
        self.exchanges: list[Exchange] = []

    async def exchange(self, call: HttpCall, phases: Phases) -> HttpReply:
        seen = Exchange(call, {**call.headers, **self._headers})
        self.exchanges.append(seen)
        try:
            seen.reply = await super().exchange(call, phases)
        except Exception as error:
            seen.error = error
            raise
        return seen.reply


@dataclass
class _WatchedAdapter:
    """Writes down the flawed bids, of which an auction keeps the first only."""

    adapter: Adapter
    flawed: list[ReplyError] = field(default_factory=list)

    def make_requests(self, request: BidRequest) -> list[HttpCall]:
        return self.adapter.make_requests(request)

    def make_bids(self, call: HttpCall, reply: HttpReply) -> Answer:
        answer = self.adapter.make_bids(call, reply)
        self.flawed += answer.refused
        return answer


@dataclass(frozen=True)
class _Asked:
    """What came in time, and what came after it."""

    wait_ms: int
    result: CallResult
    late: CallResult | None


async def _ask(config: Config, bidder: Bidder, lot: Lot) -> _Asked:
    loop = asyncio.get_running_loop()
    reported: asyncio.Future[CallResult] = loop.create_future()
    late: asyncio.Future[CallResult] = loop.create_future()
    remaining_ms = config.viewing.decision_budget_ms - config.auction.push_reserve_ms
    wait_ms = min(bidder.budget.timeout_ms, remaining_ms)
    try:
        bidder.ask(lot, remaining_ms, time.perf_counter_ns(), report=reported.set_result, late=late.set_result)
        result = await reported
        answer = None
        if result.failure is Outcome.TIMEOUT:
            with suppress(TimeoutError):
                answer = await asyncio.wait_for(late, bidder.grace_s)
        return _Asked(wait_ms, result, answer if answer is not None and answer.failure is None else None)
    finally:
        await bidder.close()


def _marked(aggregator: AggregatorConfig) -> tuple[bool, Adapter]:
    """The adapter, marking its requests as tests if it has the option `test`."""
    adapter = build_adapter(aggregator)
    try:
        return True, build_adapter(replace(aggregator, options={**aggregator.options, "test": True}))
    except ConfigError:
        return False, adapter


def _lot(config: Config, name: str, terms: Terms, rules: Rules, now_ms: int) -> Lot:
    slot_ms = terms.slot_ms or config.viewing.slot_ms
    max_ads = rules.max_ads(slot_ms)
    opportunity = Opportunity(
        auction_id=AUCTION_PREFIX + blake2b(str(now_ms).encode(), digest_size=12).hexdigest(),
        box_id=BOX_ID,
        box_key=box_key(config.privacy.box_key_secret.reveal().encode(), BOX_ID),
        partition=0,
        group=0,
        offset=0,
        emitted_ms=now_ms,
        trigger="ad_break" if max_ads > 1 else "dwell",
        opportunity_ms=now_ms,
        deadline_ms=now_ms + config.viewing.decision_budget_ms,
        slot_ms=slot_ms,
        channel_id=terms.channel_id,
        last_channel_id=None,
        last_ad_id=None,
        break_id="test" if max_ads > 1 else None,
    )
    floors = rules.floors_for(opportunity, (name,))
    return Lot(
        opportunity=opportunity,
        attempt=1,
        aggregators=(name,),
        max_ads=max_ads,
        floors=floors if terms.floor_micros is None else {name: terms.floor_micros},
        blocked=rules.blocked,
        separated=frozenset(),
        # There is none to be kept back; without it an aggregator with `consent_required` would not be asked.
        history_allowed=True,
        policy="test",
        model_version=None,
        explored=False,
    )


def _judge(rules: Rules, result: CallResult, lot: Lot) -> Verdict:
    """Judge as an auction does: what our own rules cannot digest is the aggregator's error."""
    try:
        return rules.judge(result, lot)
    except Exception as error:  # noqa: BLE001  as there
        detail = f"the reply could not be judged: {type(error).__name__}: {error}"
        return rules.judge(replace(result, failure=Outcome.ERROR, bids=(), detail=detail), lot)
