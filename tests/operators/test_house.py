"""The auction house against real servers: outcomes, deadline, tiers, advertisers, privacy, signing, isolation."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import pytest
from msgspec.structs import replace

from datastreamx.config import PrivacyConfig, PushConfig, SelectionConfig
from datastreamx.config.secrets import Secret
from datastreamx.model.auction import DecidedAd, DecidedAuction, Decision, Opportunity, Outcome
from datastreamx.model.events import Consent
from datastreamx.model.identity import partner_key, push_id
from datastreamx.wire.signing import SigningKey, verify_push
from operators.bidding.auction import CallResult, Lot, Rules, Verdict
from operators.bidding.house import Advertisers
from operators.bidding.selection.draws import draw
from operators.bidding.throttle import Throttle
from simulator.aggregators.behaviour import PROFILES
from simulator.aggregators.dialects import DIALECTS
from simulator.aggregators.modes import MODES
from tests.builders import T0, opportunity
from tests.operators.houses import (
    FOREVER_MS,
    NO_BID,
    SEED,
    Answer,
    CountingThrottle,
    Gate,
    Open,
    Stub,
    aggregator,
    always,
    code_of,
    codes,
    configured,
    fresh,
    never,
    offer,
    opened,
    rules_of,
    run,
    simulated,
    stubs,
    until,
)

INSTANT = PROFILES["instant"]
NAMES = ("alpha", "beta", "gamma", "delta", "epsilon")
HEAVY = {"gzip_bomb", "deflate_bomb", "zstd_bomb", "deep", "oversized"}
"""Modes whose replies cost their server more than the rest; one auction in ten draws them."""


def with_stubs(
    answers: list[Answer],
    story: Callable[[Open, list[Stub]], Awaitable[None]],
    changes: dict[str, dict[str, Any]] | None = None,
    **settings: Any,
) -> None:
    """Play a story with one aggregator per answer: `alpha`, `beta` and so on."""

    async def play() -> None:
        async with stubs(*answers) as servers:
            aggregators = [
                aggregator(name, server.url, **(changes or {}).get(name, {}))
                for name, server in zip(NAMES, servers, strict=False)
            ]
            async with opened(configured(*aggregators, **settings)) as house:
                await story(house, servers)

    run(play())


# Exactly one outcome each.


def _mixtures(seed: int) -> Iterator[dict[str, str]]:
    """A mode for each aggregator, over and over."""
    drawn = random.Random(seed)
    light = sorted(MODES.keys() - HEAVY - DIALECTS["simple"].cannot)
    while True:
        yield {
            name: drawn.choice(sorted(HEAVY)) if drawn.random() < 0.1 else drawn.choice(["ok", *light])
            for name in NAMES
        }


@pytest.mark.parametrize("seed", range(8))
def test_every_aggregator_has_exactly_one_outcome_whatever_they_do(seed: int) -> None:
    drawn = random.Random(seed)
    auctions = 24
    selection = SelectionConfig(
        policy=drawn.choice(["all", "waterfall", "weighted", "thompson"]),
        weights=dict.fromkeys(NAMES, 0.7),
        explore=0.2,
    )
    limits = {
        "timeout_ms": 150,
        "late_grace_ms": drawn.choice([0, 30, 300]),
        "close_at_micros": drawn.choice([None, 12_000_000]),
    }

    async def play() -> None:
        sound = replace(INSTANT, latency_p50_ms=5, latency_p99_ms=40, drip_interval_ms=1)
        async with AsyncExitStack() as stack:
            opening = {name: await stack.enter_async_context(simulated(name, sound)) for name in NAMES}
            servers = {name: server for name, (server, _) in opening.items()}
            aggregators = [
                aggregator(
                    name,
                    url,
                    max_in_flight=drawn.choice([2, 256]),
                    dynamic_timeout=drawn.choice([True, False]),
                    consent_required=drawn.choice([True, False]),
                )
                for name, (_, url) in opening.items()
            ]
            settings = configured(*aggregators, auction=limits, selection=selection)
            mixtures = _mixtures(seed)
            called = dict.fromkeys(NAMES, 0)
            async with opened(settings) as house:
                for name, bidder in house.bidders.items():
                    bidder.throttle = CountingThrottle(name)
                for start in range(0, auctions, 4):
                    for name, mode in next(mixtures).items():
                        servers[name].behaviour = replace(sound, mode=mode)
                    found = [
                        fresh(
                            number,
                            deadline_ms=T0 + drawn.choice([20, 60, 5_000]),
                            slot_ms=drawn.choice([30_000, 90_000]),
                            consent=drawn.choice([None, Consent(history=True)]),
                        )
                        for number in range(start, start + 4)
                    ]
                    for decision in await asyncio.gather(*(house.finished(one) for one in found)):
                        check(decision)
                        for outcome in decision.outcomes:
                            called[outcome.aggregator] += outcome.called
                await house.idle()
                scored = {name: len(_scores(house, name)) for name in NAMES}
            # One more may still be on its way when the last auction ends; none is asked twice.
            assert all(servers[name].stats.requests <= called[name] for name in NAMES)
            assert scored == called

    print(f"seed {seed}, {selection.policy}, {limits}")  # noqa: T201 - shown when it fails
    run(play())


def _scores(house: Open, name: str) -> list[bool]:
    throttle = house.bidders[name].throttle
    assert isinstance(throttle, CountingThrottle)
    return throttle.scores


def check(decision: Decision) -> None:
    """What holds for every decision."""
    assert tuple(outcome.aggregator for outcome in decision.outcomes) == NAMES
    never_called = {
        Outcome.NOT_SELECTED,
        Outcome.PRIVACY,
        Outcome.NO_TIME,
        Outcome.THROTTLED,
        Outcome.BULKHEAD,
        Outcome.UNSUITABLE,
        Outcome.EXPIRED,
    }
    for outcome in decision.outcomes:
        assert outcome.called is (outcome.code not in never_called), outcome
        assert (outcome.tmax_ms is not None) is outcome.called, outcome
        assert (outcome.latency_us is not None) is outcome.called, outcome
        assert (outcome.ads_won > 0) is (outcome.code is Outcome.WON)
    assert sum(outcome.ads_won for outcome in decision.outcomes) == len(decision.ads)
    assert (decision.status == "won") is bool(decision.ads)


# The deadline.


def test_deadline_is_absolute_and_lag_spends_it() -> None:
    async def story(house: Open, servers: list[Stub]) -> None:
        found = fresh(1, deadline_ms=T0 + 2_000)
        house.clock.advance(1_670)
        assert code_of(await house.auction(found)) is Outcome.WON
        assert servers[0].requests[0].told["timeout_ms"] <= 30
        house.clock.advance(1)
        decision = await house.auction(replace(found, auction_id="b" * 32), attempt=3)
        assert (decision.status, code_of(decision)) == ("expired", Outcome.EXPIRED)
        assert decision.outcomes[0].attempt == 3
        assert len(servers[0].requests) == 1

    with_stubs([always(offer())], story, auction={"push_reserve_ms": 300, "min_call_ms": 30, "timeout_ms": 300})


def test_auction_ends_before_the_deadline_of_its_push_though_nobody_answers() -> None:
    async def story(house: Open, servers: list[Stub]) -> None:
        # 50 of 450 ms are for the auction, however long an aggregator may take.
        decision = await house.auction(fresh(1, deadline_ms=T0 + 450))
        assert codes(decision) == {"alpha": Outcome.TIMEOUT, "beta": Outcome.TIMEOUT}
        assert all(outcome.tmax_ms == 50 for outcome in decision.outcomes)
        assert len(servers[0].requests) <= 1

    with_stubs([never, never], story, auction={"push_reserve_ms": 400})


def test_decision_that_leaves_too_late_has_neither_ads_nor_signature() -> None:
    key = SigningKey.from_hex("11" * 32, "k1")

    async def story(house: Open, _: list[Stub]) -> None:
        decision = await house.auction(fresh(1, deadline_ms=T0 + 5_000))
        in_time = house.house.finish(decision, T0 + 4_800)
        assert verify_push(in_time, key.public_key)
        assert in_time.signature_key_id == "k1"
        assert not verify_push(replace(in_time, box_id="stb-2"), key.public_key)
        late = house.house.finish(in_time, T0 + 4_801)
        assert (late.status, late.ads, late.push_id) == ("expired", (), None)
        assert (late.signature, late.signature_key_id) == (None, None)
        assert [(one.code, one.ads_won) for one in late.outcomes] == [(Outcome.EXPIRED, 0)]

    push = PushConfig(signing_key=Secret("11" * 32), signing_key_id="k1")
    with_stubs([always(offer())], story, auction={"push_reserve_ms": 400}, push=push)


def test_without_a_key_nothing_is_signed() -> None:
    async def story(house: Open, _: list[Stub]) -> None:
        decision = await house.finished()
        assert decision.ads
        assert decision.signature is None

    with_stubs([always(offer())], story)


# Who is asked.


def _ill(name: str) -> Throttle:
    """A throttle that lets a part of the calls through."""
    throttle = Throttle(name, "on")
    for _ in range(300):
        throttle.record(ok=False)
    assert 0.1 < throttle.share < 1
    return throttle


def _auction_where(*, explored: bool, admitted: Throttle | None = None) -> int:
    """Number of an auction that `WATERFALL` explores, or not, and that this throttle admits."""
    return next(
        number
        for number in count()
        if (draw(f"{number:032x}", "explore") < WATERFALL.explore) is explored
        and (admitted is None or admitted.admits(f"{number:032x}"))
    )


WATERFALL = SelectionConfig(policy="waterfall", order=("beta", "alpha", "gamma"), explore=0.02)
NO_BID_NO_VALID_BID_BID = [always(offer("cheap", 0.5)), always(NO_BID), always(offer("good", 3.0)), always(offer())]


def test_waterfall_is_walked_until_somebody_makes_a_valid_bid() -> None:
    async def story(house: Open, servers: list[Stub]) -> None:
        ill = _ill("gamma")
        house.bidders["gamma"].throttle = ill
        share = ill.share
        number = _auction_where(explored=False, admitted=ill)
        decision = await house.auction(fresh(number))
        assert codes(decision) == {
            "alpha": Outcome.BELOW_FLOOR,
            "beta": Outcome.NO_BID,
            "gamma": Outcome.WON,
            "delta": Outcome.NOT_SELECTED,
        }
        assert [len(server.requests) for server in servers] == [1, 1, 1, 0]
        # Those asked were certain to be, but for the throttle; the last one only when exploring.
        assert [one.propensity for one in decision.outcomes] == [1.0, 1.0, share, pytest.approx(0.02)]
        assert (decision.policy, decision.explored) == ("waterfall", False)

    with_stubs(NO_BID_NO_VALID_BID_BID, story, auction={"floor_micros": 1_000_000}, selection=WATERFALL)


def test_waterfall_whose_time_is_over_asks_no_further() -> None:
    async def story(house: Open, servers: list[Stub]) -> None:
        number = _auction_where(explored=False)
        auction = asyncio.ensure_future(house.auction(fresh(number, deadline_ms=T0 + FOREVER_MS)))
        await until(lambda: len(servers[1].requests) == 1)
        house.clock.advance(FOREVER_MS)
        gate.opened.set()
        assert codes(await auction) == {"alpha": Outcome.NO_TIME, "beta": Outcome.NO_BID}
        assert servers[0].requests == []

    gate = Gate(NO_BID)
    with_stubs([never, gate], story, selection=WATERFALL)


def test_explored_auction_asks_everyone_at_once() -> None:
    async def story(house: Open, servers: list[Stub]) -> None:
        number = _auction_where(explored=True)
        decision = await house.auction(fresh(number))
        assert [len(server.requests) for server in servers] == [1, 1, 1, 1]
        assert codes(decision)["delta"] is Outcome.WON
        assert decision.explored
        # Gamma's valid bid would have ended the walk: delta is asked through exploration alone.
        assert [one.propensity for one in decision.outcomes] == [1.0, 1.0, 1.0, pytest.approx(0.02)]

    with_stubs(NO_BID_NO_VALID_BID_BID, story, auction={"floor_micros": 1_000_000}, selection=WATERFALL)


def test_auction_in_which_the_policy_chooses_nobody_ends_at_once() -> None:
    selection = SelectionConfig(policy="weighted", weights={"alpha": 0.0, "beta": 0.0}, min_probability=0.001)

    async def story(house: Open, servers: list[Stub]) -> None:
        ill = house.bidders["beta"].throttle = _ill("beta")
        decision = await house.auction()
        assert codes(decision) == {"alpha": Outcome.NOT_SELECTED, "beta": Outcome.NOT_SELECTED}
        chosen = 0.02 + 0.98 * 0.001
        # The throttle would have had to let the call through, too.
        assert [one.propensity for one in decision.outcomes] == [
            pytest.approx(chosen),
            pytest.approx(chosen * ill.share),
        ]
        assert all(not server.requests for server in servers)

    with_stubs([never, never], story, selection=selection)


def test_bid_that_reaches_the_price_closes_the_auction_and_the_others_are_read_on() -> None:
    gate = Gate(offer("dearer", 20.0))

    async def story(house: Open, _: list[Stub]) -> None:
        ill = _ill("beta")
        house.bidders["beta"].throttle = ill
        share = ill.share
        number = next(n for n in count() if ill.admits(f"{n:032x}"))
        decision = await house.finished(fresh(number))
        assert codes(decision) == {"alpha": Outcome.WON, "beta": Outcome.CLOSED_EARLY}
        closed = decision.outcomes[1]
        assert closed.called
        assert closed.tmax_ms == FOREVER_MS
        assert closed.queue_us is not None
        assert closed.latency_us is not None
        assert closed.propensity == share
        gate.opened.set()
        await house.idle()
        (late,) = house.house.finish(house.house.undecided(fresh(), Outcome.SHED), T0).late
        assert (late.aggregator, late.price_micros, late.would_have_won) == ("beta", 20_000_000, True)

    with_stubs([always(offer("enough", 10.0)), gate], story, auction={"close_at_micros": 10_000_000})


def test_closing_price_that_is_not_reached_closes_nothing() -> None:
    gate = Gate(offer("better", 9.99))

    async def story(house: Open, _: list[Stub]) -> None:
        throttle = house.bidders["alpha"].throttle = CountingThrottle("alpha")
        auction = asyncio.ensure_future(house.auction())
        await until(lambda: bool(throttle.scores))
        assert not auction.done()
        gate.opened.set()
        assert codes(await auction) == {"alpha": Outcome.OUTBID, "beta": Outcome.WON}

    with_stubs([always(offer("good", 9.98)), gate], story, auction={"close_at_micros": 10_000_000})


def test_break_of_several_ads_waits_for_all_that_can_fill_it() -> None:
    gate = Gate(offer("second", 1.0, advertiser="second.example"))

    async def story(house: Open, _: list[Stub]) -> None:
        throttle = house.bidders["alpha"].throttle = CountingThrottle("alpha")
        auction = asyncio.ensure_future(house.auction(fresh(slot_ms=60_000)))
        await until(lambda: bool(throttle.scores))
        gate.opened.set()
        assert [ad.ad_id for ad in (await auction).ads] == ["first", "second"]

    first = always(offer("first", 20.0, advertiser="first.example"))
    with_stubs([first, gate], story, auction={"close_at_micros": 10_000_000})


class _Choking(Rules):
    """Cannot digest what one aggregator says."""

    def judge(self, result: CallResult, lot: Lot) -> Verdict:
        if result.aggregator == "alpha" and result.bids:
            raise ZeroDivisionError
        return super().judge(result, lot)


def test_reply_that_cannot_be_judged_costs_only_its_own_aggregator() -> None:
    async def play() -> None:
        async with stubs(always(offer("a", 9.0)), always(offer("b", 2.0))) as (alpha, beta):
            settings = configured(aggregator("alpha", alpha.url), aggregator("beta", beta.url))
            async with opened(settings, rules=rules_of(settings, _Choking)) as house:
                decision = await house.auction()
                assert codes(decision) == {"alpha": Outcome.ERROR, "beta": Outcome.WON}
                assert decision.outcomes[0].called

    run(play())


def test_undecided_opportunities_name_every_aggregator() -> None:
    async def story(house: Open, _: list[Stub]) -> None:
        shed = house.house.undecided(fresh(1), Outcome.SHED)
        assert (shed.status, codes(shed)) == ("shed", {"alpha": Outcome.SHED, "beta": Outcome.SHED})
        failed = house.house.failed(fresh(2), 3, ZeroDivisionError())
        assert {outcome.attempt for outcome in failed.outcomes} == {3}
        assert (failed.status, codes(failed)) == ("no_bid", {"alpha": Outcome.ERROR, "beta": Outcome.ERROR})
        assert house.house.aggregators == ("alpha", "beta")

    with_stubs([never, never], story)


def test_late_answers_travel_a_few_at_a_time() -> None:
    gate = Gate(NO_BID)

    async def story(house: Open, _: list[Stub]) -> None:
        await asyncio.gather(*(house.auction(fresh(number)) for number in range(20)))
        gate.opened.set()
        await house.idle()
        expired = [house.house.finish(house.house.undecided(fresh(99), Outcome.EXPIRED), T0) for _ in range(4)]
        assert [len(decision.late) for decision in expired] == [8, 8, 4, 0]
        assert len({late.auction_id for decision in expired for late in decision.late}) == 20

    with_stubs([gate], story, auction={"timeout_ms": 40})


# Advertisers and breaks.


def test_advertiser_of_the_last_ad_cannot_win_the_next_slot() -> None:
    async def story(house: Open, servers: list[Stub]) -> None:
        first = await house.auction(fresh(1, last_ad_id=None))
        assert [ad.ad_id for ad in first.ads] == ["ad-acme"]
        second = await house.auction(fresh(2, last_ad_id="ad-acme", consent=Consent(history=True)))
        assert codes(second) == {"alpha": Outcome.ADVERTISER_BLOCKED, "beta": Outcome.WON}
        assert servers[0].requests[1].told["block"] == "acme.example"
        third = await house.auction(fresh(3, last_ad_id="ad-other"))
        assert codes(third)["alpha"] is Outcome.WON

    acme = offer("ad-acme", 9.0, advertiser="acme.example")
    with_stubs([always(acme), always(offer("ad-other", 2.0, advertiser="other.example"))], story)


def test_separation_holds_after_a_restart_for_what_was_read_back() -> None:
    decided = DecidedAuction("a" * 32, 0, 1, "ch1", (DecidedAd("ad-old", "acme.example"),))

    async def story(house: Open, _: list[Stub]) -> None:
        assert code_of(await house.auction(fresh(1, last_ad_id="ad-old"))) is Outcome.WON
        house.house.learn(decided)
        assert code_of(await house.auction(fresh(2, last_ad_id="ad-old"))) is Outcome.ADVERTISER_BLOCKED

    with_stubs([always(offer("ad-new", 9.0, advertiser="www.acme.example"))], story)


def test_separation_can_be_switched_off() -> None:
    async def story(house: Open, _: list[Stub]) -> None:
        for number in range(2):
            assert code_of(await house.auction(fresh(number, last_ad_id="ad-acme"))) is Outcome.WON

    acme = always(offer("ad-acme", 9.0, advertiser="acme.example"))
    with_stubs([acme], story, auction={"separate_advertisers": False})


def test_house_remembers_the_advertisers_used_last() -> None:
    known = Advertisers(capacity=2)
    known.learn([DecidedAd("a", "a.example"), DecidedAd("b", "b.example"), DecidedAd("c", None)])
    assert (known.domain("a"), known.domain("c"), known.domain(None)) == ("a.example", None, None)
    known.learn([DecidedAd("d", "d.example")])
    assert (known.domain("a"), known.domain("b"), known.domain("d")) == ("a.example", None, "d.example")


@pytest.mark.parametrize("dialect", ["simple", "openrtb"])
def test_break_is_filled_by_ads_of_different_advertisers_with_pushes_of_their_own(dialect: str) -> None:
    options = {"publisher_id": "p", "app_bundle": "b"} if dialect == "openrtb" else {"method": "POST"}

    async def play() -> None:
        async with simulated("kite", INSTANT, dialect) as (_, kite), simulated("heron", INSTANT, dialect) as (_, heron):
            aggregators = [
                aggregator(name, url, adapter=dialect, options=options)
                for name, url in (("kite", kite), ("heron", heron))
            ]
            async with opened(configured(*aggregators, auction={"max_ads_per_break": 4})) as house:
                found = fresh(1, slot_ms=90_000, trigger="ad_break", break_id="b1", last_ad_id=None)
                decision = await house.finished(found)
                ads = decision.ads
                assert 2 <= len(ads) <= 4
                assert sum(ad.duration_ms or 0 for ad in ads) <= 90_000
                domains = [ad.advertiser_domain for ad in ads]
                assert None not in domains
                assert len(set(domains)) == len(ads)
                assert [ad.push_id for ad in ads] == [push_id(found.auction_id, place) for place in range(len(ads))]
                assert decision.push_id == ads[0].push_id
                assert sum(outcome.ads_won for outcome in decision.outcomes) == len(ads)
                check_single = await house.auction(fresh(2, slot_ms=30_000, last_ad_id=None))
                assert len(check_single.ads) == 1

    run(play())


# Privacy.

AGREED = Consent(history=True, gdpr=1, tcf="CPx")


def told(found: Opportunity, privacy: PrivacyConfig | None = None, **changes: Any) -> dict[str, Any]:
    """What one aggregator is told of an opportunity."""
    seen: list[dict[str, Any]] = []

    async def story(house: Open, servers: list[Stub]) -> None:
        await house.auction(found)
        seen.append(servers[0].requests[0].told)
        for raw in (found.box_id, found.box_key):
            assert raw not in servers[0].requests[0].text

    settings = {} if privacy is None else {"privacy": privacy}
    with_stubs([always(NO_BID)], story, {"alpha": changes}, **settings)
    return seen[0]


@pytest.mark.parametrize(
    "consent",
    [None, Consent(), Consent(history=False, tcf="CPx"), Consent(history=True, gdpr=1), Consent(history=True, lmt=1)],
    ids=["none", "empty", "refused", "unproven", "tracking limited"],
)
def test_viewing_history_does_not_leave_without_consent(consent: Consent | None) -> None:
    asked = told(fresh(consent=consent))
    assert "last_channel" not in asked
    assert "last_ad" not in asked
    assert "ch2" not in asked.values()
    assert asked["channel"] == "ch1"


@pytest.mark.parametrize(
    "consent",
    [Consent(history=True), Consent(history=True, gdpr=0), AGREED, Consent(history=True, gdpr=1, gpp="DBx")],
    ids=["agreed", "no GDPR", "TCF", "GPP"],
)
def test_viewing_history_is_sent_with_consent_and_so_is_the_consent(consent: Consent) -> None:
    asked = told(fresh(consent=consent))
    assert (asked["last_channel"], asked["last_ad"]) == ("ch2", "ad-0")
    assert asked["consent_history"] == 1
    assert (asked.get("tcf"), asked.get("gpp")) == (consent.tcf, consent.gpp)


def test_where_the_law_needs_no_consent_history_is_sent_without() -> None:
    asked = told(fresh(consent=None), PrivacyConfig(box_key_secret=Secret("s" * 16), history="always"))
    assert (asked["last_channel"], asked["last_ad"]) == ("ch2", "ad-0")


def test_viewer_who_limits_tracking_is_not_told_of_even_where_the_law_needs_no_consent() -> None:
    asked = told(fresh(consent=Consent(lmt=1)), PrivacyConfig(box_key_secret=Secret("s" * 16), history="always"))
    assert not {"last_channel", "last_ad", "box"} & asked.keys()


@pytest.mark.parametrize("withheld", [(), ("history",)], ids=["sent", "withheld"])
@pytest.mark.parametrize("consent", [None, AGREED], ids=["no consent", "consent"])
def test_whose_ad_was_displayed_last_is_viewing_history_too(consent: Consent | None, withheld: tuple[str, ...]) -> None:
    async def story(house: Open, servers: list[Stub]) -> None:
        house.house.learn(DecidedAuction("a", 0, 1, "ch1", (DecidedAd("ad-0", "acme.example"),)))
        await house.auction(fresh(consent=consent))
        expected = "acme.example,casino.example" if consent is not None and not withheld else "casino.example"
        assert servers[0].requests[0].told["block"] == expected

    auction = {"blocked_advertisers": ("casino.example",)}
    with_stubs([always(NO_BID)], story, {"alpha": {"withhold": withheld}}, auction=auction)


def test_pseudonym_is_withheld_where_the_gdpr_applies_and_nothing_proves_consent() -> None:
    assert "box" not in told(fresh(consent=Consent(history=True, gdpr=1)))
    assert "box" in told(fresh(consent=AGREED))
    assert "box" in told(fresh(consent=None))


@pytest.mark.parametrize(
    ("withheld", "fields"),
    [
        ("box_key", {"box"}),
        ("history", {"last_channel", "last_ad"}),
        ("consent", {"consent_history", "gdpr", "tcf"}),
    ],
)
def test_what_is_withheld_from_an_aggregator_is_not_sent_to_it(withheld: str, fields: set[str]) -> None:
    everything, less = told(fresh(consent=AGREED)), told(fresh(consent=AGREED), withhold=(withheld,))
    assert everything.keys() - less.keys() == fields


def test_every_aggregator_gets_a_pseudonym_of_its_own_that_stays_the_same() -> None:
    async def story(house: Open, servers: list[Stub]) -> None:
        for number in range(2):
            await house.auction(fresh(number))
        seen = [[request.told["box"] for request in server.requests] for server in servers]
        key = opportunity().box_key
        expected = [partner_key(b"0123456789abcdef", name, key) for name in ("alpha", "beta")]
        assert seen == [[expected[0]] * 2, [expected[1]] * 2]
        assert expected[0] != expected[1]

    with_stubs([always(NO_BID), always(NO_BID)], story)


def test_policy_does_not_see_history_that_may_not_be_used() -> None:
    async def story(house: Open, _: list[Stub]) -> None:
        for consent, seen in ((None, (None, None)), (AGREED, ("ch2", "ad-0"))):
            context = house.house._context(fresh(consent=consent))
            assert (context.last_channel_id, context.last_ad_id) == seen
            decision = await house.auction(fresh(consent=consent))
            assert decision.history_allowed is (consent is not None)

    with_stubs([always(NO_BID)], story)


# One bad partner.


@pytest.mark.integration  # in real time: it needs the machine for itself
def test_aggregator_that_never_answers_takes_no_bids_from_the_others() -> None:
    """Isolation: of those that the others make while all is well, at least 95 % are there with a black hole too."""
    auctions, at_a_time = 120, 30

    async def play() -> tuple[int, int]:
        behaviour = replace(INSTANT, fill_rate=0.9)
        async with AsyncExitStack() as stack:
            opening = {name: await stack.enter_async_context(simulated(name, behaviour)) for name in NAMES}
            hole = opening["epsilon"][0]
            aggregators = [aggregator(name, url, max_in_flight=64, throttle="on") for name, (_, url) in opening.items()]
            settings = configured(*aggregators, auction={"timeout_ms": 500, "late_grace_ms": 500})
            bids = []
            for mode in ("ok", "silent"):
                hole.behaviour = replace(behaviour, mode=mode)
                async with opened(settings) as house:
                    decisions: list[Decision] = []
                    for start in range(0, auctions, at_a_time):
                        found = [fresh(number) for number in range(start, start + at_a_time)]
                        decisions += await asyncio.gather(*(house.auction(one) for one in found))
                    others = [one for decision in decisions for one in decision.outcomes[:4]]
                    bids.append(sum(one.code in {Outcome.WON, Outcome.OUTBID} for one in others))
                    if mode == "silent":
                        assert {decision.outcomes[4].code for decision in decisions} <= {
                            Outcome.TIMEOUT,
                            Outcome.BULKHEAD,
                            Outcome.THROTTLED,
                        }
            return bids[0], bids[1]

    well, with_hole = run(play())
    assert well > 0.8 * 4 * auctions, SEED
    assert with_hole >= 0.95 * well
