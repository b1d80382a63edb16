"""One aggregator as the auction sees it: may it be asked, what did it say, how well does it do.

Lives on the event loop of the auctions. Whatever the aggregator does is a value, never an exception.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import aiohttp
from msgspec.structs import replace

from aggregators.contract import Adapter, HttpCall, HttpReply, ReplyError
from datastreamx import metrics
from datastreamx.config import AggregatorConfig, AuctionConfig, PrivacyConfig
from datastreamx.log import get_logger
from datastreamx.model.auction import Bid, Outcome
from operators.bidding.auction import CallResult, Lot
from operators.bidding.bulkhead import Bulkhead
from operators.bidding.caller import Caller, Phases
from operators.bidding.latency import TimeBudget
from operators.bidding.request import RequestMaker
from operators.bidding.throttle import Throttle

Report = Callable[[CallResult], None]

_log = get_logger("bidder")

_DETAIL_CHARS: Final = 200
_HELD_BACK: Final = 0.5
"""Share of calls admitted at which an operator hears of it; he hears of the end when all are admitted again."""
_UNWELL: Final = frozenset(
    {Outcome.ERROR, Outcome.TIMEOUT, Outcome.INVALID_RESPONSE, Outcome.UNREACHABLE, Outcome.OVERSIZE}
)
"""What counts against an aggregator's health. An ad that no box may be given is a bad ad, not a bad server."""


class Bidder:
    """Asks one configured aggregator, within its limits.

    Args:
        config: Name, limits and what is withheld.
        adapter: The aggregator's dialect.
        caller: Its HTTP client.
        auction: Limits of all auctions.
        privacy: What may leave the house.
    """

    def __init__(
        self,
        config: AggregatorConfig,
        adapter: Adapter,
        caller: Caller,
        auction: AuctionConfig,
        privacy: PrivacyConfig,
    ) -> None:
        self.name = config.name
        self._adapter = adapter
        self._caller = caller
        self._requests = RequestMaker(config, privacy, auction.currency)
        self._grace_s = auction.late_grace_ms / 1000
        self._is_tls = config.url.startswith("https:")
        self._consent_required = config.consent_required
        self.budget = TimeBudget(config.timeout_ms or auction.timeout_ms, auction.min_call_ms, config.dynamic_timeout)
        self.throttle = Throttle(config.name, config.throttle)
        self.bulkhead = Bulkhead(config.max_in_flight)
        self._mode = config.throttle
        self._is_held_back = False
        self._tasks: set[asyncio.Task[None]] = set()
        # Read when somebody looks, instead of being set for every call.
        metrics.AGGREGATOR_IN_FLIGHT.labels(config.name).set_function(lambda: self.bulkhead.in_flight)
        metrics.AGGREGATOR_HEALTH.labels(config.name).set_function(lambda: self.throttle.health)
        metrics.AGGREGATOR_ADMITTED.labels(config.name).set_function(lambda: self.throttle.share)
        metrics.AGGREGATOR_TIMEOUT.labels(config.name).set_function(lambda: self.budget.timeout_ms / 1000)

    async def keep_warm(self) -> None:
        """Keep connections open, and learn from each how far away the aggregator is; runs until it is cancelled."""
        await self._caller.keep_warm(self.budget.observe_connect)

    async def close(self) -> None:
        """End the calls under way and close all connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._caller.close()

    def ask(  # noqa: PLR0911 - one for each reason not to call
        self, lot: Lot, remaining_ms: int, handed_over_ns: int, *, report: Report, late: Report
    ) -> CallResult | None:
        """Ask for bids, or say at once why not.

        Args:
            lot: What is auctioned.
            remaining_ms: Time until the auction closes.
            handed_over_ns: When the auction was handed over, monotonic clock.
            report: Called exactly once, by the end of the time that the aggregator has; maybe before `ask` returns. The
                propensity in it is the throttle's part alone.
            late: Called at most once, after `report`, if an answer comes within the grace period.

        Returns:
            What is known of the call that is under way now; `None` if there is none, and `report` was called.
        """
        unasked = self.not_selected()
        if self._consent_required and not lot.history_allowed:
            report(replace(unasked, failure=Outcome.PRIVACY, detail="it is asked only for viewers who consent"))
            return None
        wait_ms = self.budget.wait_ms(remaining_ms)
        if wait_ms is None:
            report(replace(unasked, failure=Outcome.NO_TIME, detail=f"{remaining_ms} ms were left"))
            return None
        if not self.throttle.admits(lot.opportunity.auction_id):
            report(replace(unasked, failure=Outcome.THROTTLED, detail=f"health {self.throttle.health:.2f}"))
            return None
        tmax_ms = self.budget.tmax_ms(wait_ms)
        try:
            calls = self._adapter.make_requests(self._requests.request(lot, tmax_ms))
        except Exception as error:  # noqa: BLE001 - a faulty adapter costs its aggregator the auction, not the flow
            report(replace(unasked, failure=Outcome.ERROR, detail=_told(error)))
            return None
        if not calls:
            detail = "the adapter has no request for this opportunity"
            report(replace(unasked, failure=Outcome.UNSUITABLE, detail=detail))
            return None
        if not self.bulkhead.try_enter():
            report(replace(unasked, failure=Outcome.BULKHEAD, detail=f"{self.bulkhead.in_flight} calls were under way"))
            return None
        called = replace(
            unasked, called=True, tmax_ms=tmax_ms, queue_us=(time.perf_counter_ns() - handed_over_ns) // 1000
        )
        attempt = _Attempt(self, calls, called, wait_ms / 1000, _Listeners(report, late))
        task = asyncio.get_running_loop().create_task(attempt.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return called

    def not_selected(self) -> CallResult:
        """Result of an auction in which the policy has not chosen this aggregator."""
        return CallResult(
            aggregator=self.name, called=False, failure=Outcome.NOT_SELECTED, propensity=self.throttle.share
        )

    def score(self, result: CallResult) -> None:
        """Judge the aggregator's health by a call: once each, when it has ended or its time is over."""
        self.throttle.record(result.failure not in _UNWELL)
        share = self.throttle.simulated_share
        if share <= _HELD_BACK and not self._is_held_back:
            self._is_held_back = True
            failure = result.failure.label if result.failure is not None else None
            _log.warning("aggregator.unwell", aggregator=self.name, last=failure, throttle=self._mode)
        elif share == 1.0 and self._is_held_back:
            self._is_held_back = False
            _log.info("aggregator.well", aggregator=self.name)

    async def exchange(self, calls: list[HttpCall], result: CallResult, phases: Phases) -> CallResult:
        """Make the calls and read the replies; whatever happens is in the result."""
        reply: HttpReply | None = None
        bids: list[Bid] = []
        refused: list[ReplyError] = []
        no_bid_reason: int | None = None
        failure: Outcome | None = None
        detail: str | None = None
        try:
            for call in calls:
                reply = await self._caller.exchange(call, phases)
                answer = self._adapter.make_bids(call, reply)
                bids += answer.bids
                refused += answer.refused
                no_bid_reason = answer.no_bid_reason if no_bid_reason is None else no_bid_reason
        except ReplyError as error:
            failure, detail = error.code, error.detail
        except aiohttp.ClientResponseError as error:
            # Not its text: that holds the whole address, and with it whatever the adapter has put into the query.
            failure, detail = Outcome.INVALID_RESPONSE, f"this is no HTTP: {' '.join(error.message.split())}"
        except (aiohttp.ClientError, OSError) as error:
            failure, detail = Outcome.UNREACHABLE, _told(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as in `ask`; an exit would end the loop's thread
            failure, detail = Outcome.ERROR, _told(error)
        if detail is None and refused:
            detail = f"{len(refused)} more bids refused, the first for: {refused[0].detail}"
        return replace(
            result,
            failure=failure,
            bids=() if failure is not None else tuple(bids),
            latency_us=phases.elapsed_us(),
            dns_us=phases.dns_us,
            connect_us=phases.connect_us,
            first_byte_us=phases.first_byte_us,
            connection_reused=phases.connection_reused,
            http_status=reply.status if reply else None,
            response_bytes=len(reply.body) if reply else None,
            no_bid_reason=no_bid_reason,
            detail=detail[:_DETAIL_CHARS] if detail else None,
        )

    def ended(self, phases: Phases, *, answered: bool | None) -> None:
        """A call has ended for good, its grace period included: learn how long the aggregator takes.

        Args:
            phases: Of the call.
            answered: True: by an answer, in time or not. False: given up. `None`: by a failure, which tells nothing of
                how long an answer takes.
        """
        self.bulkhead.leave()
        if answered is not None:
            self.budget.observe(phases.elapsed_us(), answered=answered)
        if phases.connect_us is not None:
            self.budget.observe_connect(phases.connect_us, self._is_tls)

    @property
    def grace_s(self) -> float:
        """For how long after its time an answer is still read."""
        return self._grace_s


class _Listeners(NamedTuple):
    report: Report
    late: Report


class _Attempt:
    """One call, its timer, and what comes after it.

    At the end of its time the aggregator has timed out, but the call goes on for the grace period: the answer tells how
    long it really takes and what it would have bid, and the connection survives, which a cancelled call would close.
    """

    __slots__ = ("_bidder", "_calls", "_in_time", "_late", "_phases", "_report", "_result", "_task", "_timer")

    def __init__(
        self, bidder: Bidder, calls: list[HttpCall], result: CallResult, wait_s: float, listeners: _Listeners
    ) -> None:
        self._bidder = bidder
        self._calls = calls
        self._result = result
        self._report, self._late = listeners
        self._phases = Phases()
        self._in_time = True
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._time_is_up)

    async def run(self) -> None:
        self._task = asyncio.current_task()
        answered: bool | None = False
        try:
            result = await self._bidder.exchange(self._calls, self._result, self._phases)
            answered = None if result.failure in _UNWELL else True
            # Not in `finally`: what ends without a result is still to be reported, and the auction waits for it.
            self._timer.cancel()
        finally:
            self._bidder.ended(self._phases, answered=answered)
        if self._in_time:
            self._bidder.score(result)
            self._report(result)
        else:
            self._late(result)

    def _time_is_up(self) -> None:
        self._in_time = False
        phases = self._phases
        result = replace(
            self._result,
            failure=Outcome.TIMEOUT,
            latency_us=phases.elapsed_us(),
            dns_us=phases.dns_us,
            connect_us=phases.connect_us,
            first_byte_us=phases.first_byte_us,
            connection_reused=phases.connection_reused,
            detail="no answer" if phases.first_byte_us is None else "the answer had begun",
        )
        self._bidder.score(result)
        self._timer = asyncio.get_running_loop().call_later(self._bidder.grace_s, self._give_up)
        self._report(result)

    def _give_up(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_DETAIL_CHARS]
