"""One aggregator at a time: when it is asked, how long it is waited for, what it is told, how its health is judged."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from structlog.testing import capture_logs

from aggregators.contract import Answer as AdapterAnswer
from aggregators.contract import HttpCall, HttpReply
from aggregators.simple.adapter import SimpleAdapter
from aggregators.simple.options import SimpleOptions
from datastreamx.model.auction import Bid, BidRequest, Outcome
from datastreamx.model.events import Consent
from operators.bidding.auction import CallResult, Lot
from operators.bidding.bidder import Bidder
from operators.bidding.latency import TimeBudget
from operators.bidding.throttle import Throttle
from tests.builders import T0
from tests.operators.auctions import lot
from tests.operators.houses import (
    FOREVER_MS,
    NO_BID,
    Answer,
    CountingThrottle,
    Gate,
    Open,
    Request,
    Stub,
    aggregator,
    always,
    code_of,
    codes,
    configured,
    fresh,
    http,
    never,
    offer,
    opened,
    run,
    stubs,
    until,
)

AT_ONCE_MS = 40
"""A time-out that is meant to pass."""


def with_stub(
    answer: Answer,
    story: Callable[[Open, Stub], Awaitable[None]],
    auction: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    """Play a story with one aggregator, `alpha`."""

    async def play() -> None:
        async with (
            stubs(answer) as (server,),
            opened(configured(aggregator("alpha", server.url, **changes), auction=auction)) as house,
        ):
            await story(house, server)

    run(play())


def test_every_skipped_call_has_its_code_and_nothing_is_sent() -> None:
    async def story(house: Open, server: Stub) -> None:
        async def code(**changes: Any) -> Outcome:
            (outcome,) = (await house.auction(fresh(**changes))).outcomes
            assert not outcome.called
            assert outcome.tmax_ms is None
            assert outcome.latency_us is None
            return outcome.code

        alpha = house.bidders["alpha"]
        assert await code(consent=Consent(history=False)) is Outcome.PRIVACY
        assert await code() is Outcome.PRIVACY
        agreed = Consent(history=True)
        assert await code(consent=agreed, deadline_ms=T0 + 25) is Outcome.EXPIRED
        assert alpha.bulkhead.try_enter()
        assert await code(consent=agreed) is Outcome.BULKHEAD
        alpha.bulkhead.leave()
        alpha.throttle = Throttle("alpha", "on")
        for _ in range(2_000):
            alpha.throttle.record(ok=False)
        assert await code(consent=agreed, auction_id=_refused(alpha.throttle)) is Outcome.THROTTLED
        assert server.requests == []

    with_stub(never, story, consent_required=True, max_in_flight=1)


def _refused(throttle: Throttle) -> str:
    return next(auction for n in range(1_000) if not throttle.admits(auction := f"{n:032x}"))


def test_with_less_time_than_a_call_needs_it_is_not_asked() -> None:
    async def story(house: Open, server: Stub) -> None:
        reports: list[CallResult] = []
        assert _ask(house.bidders["alpha"], lot("alpha"), 29, reports) is None
        assert [(one.failure, one.called) for one in reports] == [(Outcome.NO_TIME, False)]
        assert server.requests == []

    with_stub(never, story, {"min_call_ms": 30})


def test_slot_that_the_adapter_cannot_serve_is_unsuitable() -> None:
    async def story(house: Open, server: Stub) -> None:
        assert code_of(await house.auction(fresh(slot_ms=1_000))) is Outcome.UNSUITABLE
        assert server.requests == []

    options = {"publisher_id": "p", "app_bundle": "b", "min_duration_s": 5}
    with_stub(never, story, adapter="openrtb", options=options)


def test_aggregator_is_told_what_remains_of_the_deadline_less_the_way_there_and_back() -> None:
    async def story(house: Open, server: Stub) -> None:
        for _ in range(3):
            house.bidders["alpha"].budget.observe_connect(7_000, tls=False)
        (outcome,) = (await house.auction(fresh(1, deadline_ms=T0 + 20_000))).outcomes
        told = server.requests[0].told["timeout_ms"]
        assert told == outcome.tmax_ms
        assert 20_000 - 300 - 2 * 8 <= told <= 20_000 - 300 - 7
        # Lag spends it: by the wall clock the auction begins 12 s later.
        house.clock.advance(12_000)
        await house.auction(fresh(2, deadline_ms=T0 + 20_000))
        assert server.requests[1].told["timeout_ms"] == told - 12_000
        # It never gets more than its own time-out.
        await house.auction(fresh(3, deadline_ms=T0 + 10 * FOREVER_MS))
        assert server.requests[2].told["timeout_ms"] <= FOREVER_MS

    with_stub(always(NO_BID), story, {"push_reserve_ms": 300})


def _patience() -> TimeBudget:
    return TimeBudget(FOREVER_MS, 30, dynamic=False)


def test_answer_after_the_time_is_a_late_bid_of_a_later_decision_and_saves_its_connection() -> None:
    gate = Gate(offer(price=9.0))

    async def story(house: Open, server: Stub) -> None:
        decision = await house.finished(fresh(1))
        (outcome,) = decision.outcomes
        assert (outcome.code, outcome.called) == (Outcome.TIMEOUT, True)
        assert outcome.detail == "no answer"
        assert (decision.status, decision.ads, decision.late) == ("no_bid", (), ())
        assert house.bidders["alpha"].bulkhead.in_flight == 1
        gate.opened.set()
        await house.idle()
        house.bidders["alpha"].budget = _patience()
        server.answer = always(NO_BID)
        later = await house.finished(fresh(2))
        assert server.connections == 1
        assert later.outcomes[0].connection_reused is True
        (late,) = later.late
        assert (late.auction_id, late.aggregator) == (decision.auction_id, "alpha")
        assert (late.price_micros, late.would_have_won) == (9_000_000, True)
        assert late.decided_ms == decision.decided_ms
        assert late.latency_us >= (outcome.latency_us or 0)
        assert later.ads == ()
        assert (await house.finished(fresh(3))).late == ()

    with_stub(gate, story, {"timeout_ms": AT_ONCE_MS})


@pytest.mark.parametrize(
    ("reply", "price_micros"),
    [(NO_BID, None), (offer(price=0.5), None), (offer(price=2.0), 2_000_000)],
    ids=["no bid", "below the floor", "outbid"],
)
def test_late_answer_that_would_not_have_won_is_told_as_such(reply: bytes, price_micros: int | None) -> None:
    gate = Gate(reply)

    async def play() -> None:
        async with stubs(gate, always(offer("other", 3.0))) as (slow, quick):
            aggregators = aggregator("slow", slow.url, timeout_ms=AT_ONCE_MS), aggregator("quick", quick.url)
            settings = configured(*aggregators, auction={"floor_micros": 1_000_000})
            async with opened(settings) as house:
                decision = await house.finished(fresh(1))
                assert codes(decision) == {"slow": Outcome.TIMEOUT, "quick": Outcome.WON}
                gate.opened.set()
                await house.idle()
                (late,) = (await house.finished(fresh(2))).late
                assert (late.price_micros, late.would_have_won) == (price_micros, False)

    run(play())


def test_answer_that_is_late_while_others_are_still_waited_for_is_told_too_and_not_awarded() -> None:
    """An aggregator's own time-out may be shorter than the auction."""
    slow_gate, slower_gate = Gate(offer("late", 9.0)), Gate(offer("good", 2.0))

    async def play() -> None:
        async with stubs(slow_gate, slower_gate) as (slow, slower):
            aggregators = aggregator("slow", slow.url, timeout_ms=AT_ONCE_MS), aggregator("slower", slower.url)
            async with opened(configured(*aggregators)) as house:
                throttle = house.bidders["slow"].throttle = CountingThrottle("slow")
                auction = asyncio.ensure_future(house.finished(fresh(1)))
                await until(lambda: throttle.scores == [False])
                slow_gate.opened.set()
                await until(lambda: house.bidders["slow"].bulkhead.in_flight == 0)
                assert not auction.done()
                slower_gate.opened.set()
                decision = await auction
                assert codes(decision) == {"slow": Outcome.TIMEOUT, "slower": Outcome.WON}
                assert [ad.ad_id for ad in decision.ads] == ["good"]
                (late,) = decision.late or (await house.finished(fresh(2))).late
                assert (late.auction_id, late.price_micros, late.would_have_won) == (f"{1:032x}", 9_000_000, True)

    run(play())


def test_after_the_grace_the_call_is_given_up_and_its_place_is_free() -> None:
    async def story(house: Open, server: Stub) -> None:
        assert code_of(await house.auction(fresh(1))) is Outcome.TIMEOUT
        assert code_of(await house.auction(fresh(2))) is Outcome.BULKHEAD
        assert len(server.open) == 1
        await house.idle()
        await until(lambda: not server.open)
        house.bidders["alpha"].budget = _patience()
        server.answer = always(offer())
        decision = await house.finished(fresh(3))
        assert (code_of(decision), decision.late) == (Outcome.WON, ())

    with_stub(never, story, {"timeout_ms": AT_ONCE_MS, "late_grace_ms": 150}, max_in_flight=1)


def test_answer_that_has_begun_at_the_time_out_is_told_apart_from_none() -> None:
    async def story(house: Open, server: Stub) -> None:
        (outcome,) = (await house.auction()).outcomes
        assert (outcome.code, outcome.detail) == (Outcome.TIMEOUT, "the answer had begun")
        assert outcome.first_byte_us is not None
        assert len(server.requests) == 1

    beginning = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"
    with_stub(always(beginning), story, {"timeout_ms": 300})


@pytest.mark.parametrize(
    ("reply", "well"),
    [
        (offer(), True),
        (NO_BID, True),
        (offer(url="http://cdn.example/x"), True),
        (offer(price=-1), False),
        (http(b"no json"), False),
        (http(b"", "500 Internal Server Error"), False),
        (None, False),
        (http(b" " * 300_000), False),
    ],
    ids=["bid", "no bid", "bad creative", "bad price", "garbage", "500", "hung up", "oversize"],
)
def test_every_call_is_scored_once_by_its_end(reply: bytes | None, *, well: bool) -> None:
    async def story(house: Open, _: Stub) -> None:
        throttle = house.bidders["alpha"].throttle = CountingThrottle("alpha")
        for number in range(3):
            await house.auction(fresh(number))
        assert throttle.scores == [well] * 3

    with_stub(always(reply), story)


def test_call_that_times_out_is_scored_once_though_its_answer_is_read() -> None:
    gate = Gate(offer())

    async def story(house: Open, _: Stub) -> None:
        throttle = house.bidders["alpha"].throttle = CountingThrottle("alpha")
        await house.auction()
        assert throttle.scores == [False]
        gate.opened.set()
        await house.idle()
        assert throttle.scores == [False]

    with_stub(gate, story, {"timeout_ms": AT_ONCE_MS})


def test_call_that_is_not_made_is_not_scored() -> None:
    async def story(house: Open, _: Stub) -> None:
        alpha = house.bidders["alpha"]
        throttle = alpha.throttle = CountingThrottle("alpha")
        await house.auction(fresh(deadline_ms=T0))
        assert alpha.bulkhead.try_enter()
        await house.auction()
        alpha.bulkhead.leave()
        assert throttle.scores == []

    with_stub(never, story, max_in_flight=1)


def test_late_answers_teach_the_time_out_and_failures_do_not() -> None:
    gate = Gate(NO_BID)

    async def story(house: Open, server: Stub) -> None:
        seen: list[bool] = []
        budget = house.bidders["alpha"].budget

        def observe(latency_us: int, *, answered: bool) -> None:
            assert latency_us > 0
            seen.append(answered)

        budget.observe = observe  # type: ignore[method-assign]
        await house.auction(fresh(1))
        gate.opened.set()
        await house.idle()
        assert seen == [True]
        server.answer = always(http(b"", "500 Internal Server Error"))
        await house.auction(fresh(2))
        assert seen == [True]

    with_stub(gate, story, {"timeout_ms": AT_ONCE_MS})


@dataclass
class _Broken(SimpleAdapter):
    """Fails where it is told to."""

    url: str
    asks: bool
    error: type[BaseException] = KeyError

    def __post_init__(self) -> None:
        super().__init__(self.url, SimpleOptions(method="POST"))

    def make_requests(self, request: BidRequest) -> list[HttpCall]:
        if not self.asks:
            raise ZeroDivisionError("in make_requests")
        return super().make_requests(request)

    def make_bids(self, call: HttpCall, reply: HttpReply) -> AdapterAnswer:
        raise self.error("in make_bids", call.url, reply.status)


@pytest.mark.parametrize(
    ("asks", "error", "told"),
    [(False, KeyError, "ZeroDivisionError"), (True, KeyError, "KeyError"), (True, SystemExit, "SystemExit")],
)
def test_adapter_that_raises_costs_its_own_aggregator_the_auction(
    told: str, error: type[BaseException], *, asks: bool
) -> None:
    async def play() -> None:
        async with stubs(always(offer("a", 9.0)), always(offer("b", 2.0))) as (alpha, beta):
            settings = configured(aggregator("alpha", alpha.url), aggregator("beta", beta.url))
            async with opened(settings, adapters={"alpha": _Broken(alpha.url, asks, error)}) as house:
                decision = await house.auction()
                assert codes(decision) == {"alpha": Outcome.ERROR, "beta": Outcome.WON}
                first = decision.outcomes[0]
                assert first.called is asks
                assert told in (first.detail or "")
                assert house.bidders["alpha"].bulkhead.in_flight == 0

    run(play())


def test_call_that_is_cancelled_from_outside_is_reported_all_the_same() -> None:
    async def play() -> None:
        async with stubs(never, always(offer("b", 2.0))) as (alpha, beta):
            settings = configured(aggregator("alpha", alpha.url, timeout_ms=AT_ONCE_MS), aggregator("beta", beta.url))
            broken = _Broken(alpha.url, asks=True, error=asyncio.CancelledError)
            alpha.answer = always(NO_BID)
            async with opened(settings, adapters={"alpha": broken}) as house:
                decision = await asyncio.wait_for(house.auction(), FOREVER_MS / 4_000)
                assert codes(decision) == {"alpha": Outcome.TIMEOUT, "beta": Outcome.WON}
                assert house.bidders["alpha"].bulkhead.in_flight == 0

    run(play())


class _Twice(SimpleAdapter):
    """Asks once for each half of the market."""

    def make_requests(self, request: BidRequest) -> list[HttpCall]:
        return super().make_requests(request) * 2

    def make_bids(self, call: HttpCall, reply: HttpReply) -> AdapterAnswer:
        (bid,) = super().make_bids(call, reply).bids
        return AdapterAnswer((Bid(**{name: getattr(bid, name) for name in bid.__struct_fields__}),))


def test_bids_of_all_calls_of_an_adapter_count() -> None:
    prices = iter((2.0, 7.0))

    async def answer(_: Request) -> bytes:
        price = next(prices)
        return offer(f"ad-{price}", price, bid=f"b-{price}")

    async def play() -> None:
        async with stubs(answer) as (server,):
            twice = _Twice(server.url, SimpleOptions(method="POST"))
            async with opened(configured(aggregator("alpha", server.url)), adapters={"alpha": twice}) as house:
                decision = await house.auction()
                assert [ad.ad_id for ad in decision.ads] == ["ad-7.0"]
                assert decision.outcomes[0].bids == 2
                assert house.bidders["alpha"].bulkhead.in_flight == 0

    run(play())


class _Hanging(AbstractResolver):
    """A name service that never answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        del port, family
        self.asked.append(host)
        await asyncio.Event().wait()
        raise AssertionError("nobody sets the event")

    async def close(self) -> None:
        pass


def test_name_that_is_not_resolved_costs_only_its_own_aggregator() -> None:
    async def play() -> None:
        resolver = _Hanging()
        async with stubs(always(offer())) as (server,):
            lost = aggregator("lost", "http://lost.example/bid", timeout_ms=AT_ONCE_MS)
            settings = configured(lost, aggregator("alpha", server.url), auction={"late_grace_ms": 10})
            async with opened(settings, resolvers={"lost": resolver}) as house:
                for number in range(3):
                    decision = await house.auction(fresh(number))
                    assert codes(decision) == {"lost": Outcome.TIMEOUT, "alpha": Outcome.WON}
                await house.idle()
                # Each lookup keeps a thread of the system busy: one is enough.
                assert resolver.asked == ["lost.example"]

    run(play())


def _ask(bidder: Bidder, sold: Lot, remaining_ms: int, reports: list[CallResult]) -> CallResult | None:
    return bidder.ask(sold, remaining_ms, time.perf_counter_ns(), report=reports.append, late=reports.append)


def test_failing_aggregator_gets_few_calls_and_soon_nearly_all_after_its_recovery() -> None:
    failing = http(b"", "500 Internal Server Error")

    async def play() -> None:
        async with (
            stubs(always(failing)) as (server,),
            opened(configured(aggregator("alpha", server.url, throttle="on"))) as house,
        ):
            alpha, auctions, reports = house.bidders["alpha"], 0, list[CallResult]()

            async def ask() -> bool:
                """One auction; whether the aggregator was called."""
                nonlocal auctions
                auctions += 1
                ended = asyncio.get_running_loop().create_future()
                sold = lot("alpha", auction_id=f"{auctions:032x}")
                alpha.ask(sold, FOREVER_MS, 0, report=ended.set_result, late=reports.append)
                result: CallResult = await ended
                assert result.called is (result.failure is not Outcome.THROTTLED)
                return result.called

            async def calls(wanted: int) -> None:
                while len(server.requests) < wanted:
                    await ask()

            await calls(1_000)
            probes = [await ask() for _ in range(1_000)]
            assert 0 < sum(probes) <= 150
            server.answer = always(NO_BID)
            await calls(len(server.requests) + 1_000)
            recovered = [await ask() for _ in range(1_000)]
            assert sum(recovered) >= 950
            assert server.connections == 1

    with capture_logs() as logs:
        run(play())
    told = [entry for entry in logs if entry["event"].startswith("aggregator.")]
    assert [entry["event"] for entry in told] == ["aggregator.unwell", "aggregator.well"]
    assert (told[0]["last"], told[0]["throttle"]) == ("error", "on")
