"""Simulated aggregators behave as told, repeat themselves, and speak what our adapters understand."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
import pytest

from aggregators.contract import Adapter, HttpReply, ReplyError
from aggregators.registry import build_adapter
from datastreamx.config import AggregatorConfig
from datastreamx.errors import CrashError
from datastreamx.model.auction import Bid, BidRequest, Outcome
from datastreamx.model.events import Consent
from simulator.aggregators import Behaviour, LocalAggregator
from simulator.aggregators.behaviour import PROFILES, Plan, decide
from simulator.aggregators.catalogue import Catalogue
from simulator.aggregators.dialects import DIALECTS
from simulator.aggregators.modes import MODES
from simulator.aggregators.server import AggregatorServer, changed
from tests.simulator.aggregator_client import INSTANT, SEED, in_mode

T = TypeVar("T")

TAG_QUERY = "?auction={auction}&channel={channel}&duration={duration}&floor={floor}&last_ad={last_ad}"
OPTIONS: dict[str, dict[str, str | int | bool]] = {
    "openrtb": {"publisher_id": "pub-1", "app_bundle": "com.example.stb"},
    "simple": {},
    "vasttag": {},
}
REQUEST = BidRequest(
    auction_id="3b1f0e6a9c2d4875a1e0f3c4b5d60718",
    box_key="8d5e2c1f7a904b36ad0c9e8f71625340",
    trigger="dwell",
    opportunity_ms=1_700_000_015_123,
    channel_id="ch17",
    last_channel_id="ch04",
    last_ad_id=None,
    break_id=None,
    slot_ms=30_000,
    tmax_ms=250,
    floor_micros=0,
    currency="USD",
)


def _plans(behaviour: Behaviour, count: int = 4_000, name: str = "kite", seed: int = SEED) -> list[Plan]:
    return [decide(behaviour, seed, name, f"auction-{i}") for i in range(count)]


class Client:
    """One adapter and one HTTP client, against a server in this event loop."""

    def __init__(self, dialect: str, server: AggregatorServer, session: aiohttp.ClientSession, base: str) -> None:
        self.server = server
        self.session = session
        self.base = base
        url = f"{base}/bid{TAG_QUERY if dialect == 'vasttag' else ''}"
        self.adapter: Adapter = build_adapter(
            AggregatorConfig(name="kite", adapter=dialect, url=url, options=OPTIONS[dialect])
        )

    async def bids(self, request: BidRequest = REQUEST) -> list[Bid]:
        (call,) = self.adapter.make_requests(request)
        async with self.session.request(call.method, call.url, data=call.body, headers=call.headers) as response:
            reply = HttpReply(status=response.status, body=await response.read())
        answer = self.adapter.make_bids(call, reply)
        assert answer.refused == ()
        return list(answer.bids)


def _with_server(dialect: str, behaviour: Behaviour, story: Callable[[Client], Awaitable[T]]) -> T:
    async def run() -> T:
        server = AggregatorServer("kite", DIALECTS[dialect], SEED, behaviour)
        async with server.serving() as port, aiohttp.ClientSession() as session:
            return await story(Client(dialect, server, session, f"http://127.0.0.1:{port}"))

    return asyncio.run(run())


def test_a_decision_follows_from_seed_name_and_auction_alone() -> None:
    plans = _plans(PROFILES["steady"], 50)
    assert plans == _plans(PROFILES["steady"], 50)
    assert plans != _plans(PROFILES["steady"], 50, name="osprey")
    assert plans != _plans(PROFILES["steady"], 50, seed=SEED + 1)


def test_draws_have_the_distributions_that_were_asked_for() -> None:
    behaviour = Behaviour(latency_p50_ms=40, latency_p99_ms=120, fill_rate=0.7)
    plans = _plans(behaviour)
    latencies = statistics.quantiles((plan.latency_ms for plan in plans), n=100)
    prices = statistics.quantiles((plan.price_micros for plan in plans), n=20)
    assert latencies[49] == pytest.approx(40, rel=0.05)
    assert latencies[98] == pytest.approx(120, rel=0.15)
    assert prices[0] == pytest.approx(8_000_000, rel=0.04)
    assert prices[-1] == pytest.approx(16_000_000, rel=0.04)
    assert all(plan.price_micros % 10_000 == 0 for plan in plans)
    assert sum(plan.wants_to_bid for plan in plans) / len(plans) == pytest.approx(0.7, abs=0.03)


def test_a_mode_applies_to_its_share_of_auctions() -> None:
    plans = _plans(Behaviour(mode="http_500", mode_probability=0.25))
    assert sum(plan.mode == "http_500" for plan in plans) / len(plans) == pytest.approx(0.25, abs=0.03)
    assert {plan.mode for plan in plans} == {"ok", "http_500"}


def test_a_higher_fill_rate_adds_bids_and_changes_none() -> None:
    few, many = _plans(Behaviour(fill_rate=0.3)), _plans(Behaviour(fill_rate=0.6))
    for a, b in zip(few, many, strict=True):
        assert b.wants_to_bid or not a.wants_to_bid
        assert (a.price_micros, a.latency_ms, a.pick) == (b.price_micros, b.latency_ms, b.pick)


def test_the_catalogue_fits_the_slot_and_does_not_repeat_the_last_ad() -> None:
    catalogue = Catalogue("kite")
    for i in range(200):
        ad = catalogue.choose(i / 200, 20_000, None)
        assert ad is not None
        assert ad.duration_ms <= 20_000
        other = catalogue.choose(i / 200, 20_000, ad.ad_id)
        assert other is not None
        assert other != ad
        assert other.duration_ms <= 20_000
    assert catalogue.choose(0.5, 9_999, None) is None


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_names_a_mode_that_exists(profile: str) -> None:
    assert PROFILES[profile].mode in MODES


@pytest.mark.parametrize("creative", ["url", "inline", "preloaded"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_our_adapter_reads_what_the_aggregator_decided(dialect: str, creative: str) -> None:
    behaviour = in_mode("ok", creative=creative)
    plan = decide(behaviour, SEED, "kite", REQUEST.auction_id)
    ad = Catalogue("kite").choose(plan.pick, REQUEST.slot_ms, None)
    assert ad is not None

    async def story(client: Client) -> list[Bid]:
        assert await client.bids() == await client.bids(), "a repeated request gets the same bid"
        return await client.bids()

    (bid,) = _with_server(dialect, behaviour, story)
    assert bid.price_micros == plan.price_micros
    assert (bid.ad_id, bid.duration_ms, bid.advertiser_domain) == (ad.ad_id, ad.duration_ms, ad.advertiser_domain)
    assert bid.currency == "USD"
    if dialect == "vasttag" or (creative == "inline" and dialect == "openrtb"):
        assert bid.creative_url is not None
        assert bid.creative_url.startswith("data:application/xml;base64,")
        assert set(bid.creative_hosts) == {"cdn.kite.example", ad.advertiser_domain}
    elif creative == "preloaded":
        assert bid.creative_url is None
    else:
        assert bid.creative_url == ad.url


@pytest.mark.parametrize("dialect", ["openrtb", "simple"])
def test_our_adapter_reads_several_ads_for_a_break_and_where_notices_go(dialect: str) -> None:
    request = msgspec.structs.replace(
        REQUEST, break_id="break-1", slot_ms=90_000, max_ads=4, blocked_advertisers=("alder-bank.example",)
    )

    async def story(client: Client) -> None:
        bids = await client.bids(request)
        assert 2 <= len(bids) <= 4
        assert sum(bid.duration_ms or 0 for bid in bids) <= 90_000
        domains = {bid.advertiser_domain for bid in bids}
        assert len(domains) == len(bids)
        assert "alder-bank.example" not in domains
        for bid in bids:
            assert bid.notices is not None
            for event, url in (
                ("win", bid.notices.win),
                ("loss", bid.notices.loss),
                ("billing", bid.notices.billing),
            ):
                assert url is not None
                assert url.startswith(f"{client.base}/notice?event={event}&auction={request.auction_id}&")
                assert f"bid={bid.bid_id}&" in url

    _with_server(dialect, in_mode("ok", notices=True), story)


@pytest.mark.parametrize(
    ("dialect", "told"), [("openrtb", (1, 1, 1)), ("simple", (1, 1, 1)), ("vasttag", (0, 1, 0))], ids=str
)
def test_what_our_adapter_tells_about_the_viewer_is_counted(dialect: str, told: tuple[int, int, int]) -> None:
    consent = Consent(history=True, gdpr=1, tcf="CP1R2oAP1R2oAEsAEBENB4Fg")
    everything = msgspec.structs.replace(REQUEST, last_ad_id="kite-alder-bank-10s", consent=consent)
    nothing = msgspec.structs.replace(REQUEST, box_key=None, last_channel_id=None, consent=None)

    async def story(client: Client) -> None:
        stats = client.server.stats
        assert await client.bids(nothing)
        assert (stats.told_box, stats.told_history, stats.told_consent) == (0, 0, 0)
        assert await client.bids(everything)
        assert (stats.told_box, stats.told_history, stats.told_consent) == told

    _with_server(dialect, INSTANT, story)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_last_ad_is_heard_and_not_offered_again(dialect: str) -> None:
    async def story(client: Client) -> tuple[list[Bid], list[Bid]]:
        first = await client.bids()
        return first, await client.bids(msgspec.structs.replace(REQUEST, last_ad_id=first[0].ad_id))

    first, second = _with_server(dialect, INSTANT, story)
    assert first[0].ad_id != second[0].ad_id


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_floor_is_heard(dialect: str) -> None:
    price = decide(INSTANT, SEED, "kite", REQUEST.auction_id).price_micros
    at, above = (msgspec.structs.replace(REQUEST, floor_micros=floor) for floor in (price, price + 1))

    async def story(client: Client) -> None:
        assert await client.bids(at)
        assert await client.bids(above) == []
        client.server.behaviour = in_mode("ok", respects_floor=False)
        assert await client.bids(above)

    _with_server(dialect, INSTANT, story)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_request_that_breaks_the_dialect_is_refused_and_counted(dialect: str) -> None:
    async def story(client: Client) -> None:
        async with client.session.post(f"{client.base}/bid", data=b'{"id": 1}') as response:
            assert response.status == 400
        async with client.session.get(f"{client.base}/bid?channel=ch17") as response:
            assert response.status == 400
        async with client.session.get(f"{client.base}/elsewhere") as response:
            assert response.status == 404
        assert client.server.stats.bad_requests == 2
        assert client.server.stats.requests == 2

    _with_server(dialect, INSTANT, story)


REFUSED_BY_ADAPTERS = {
    "http_500": Outcome.ERROR,
    "garbage": Outcome.INVALID_RESPONSE,
    "deep": Outcome.INVALID_RESPONSE,
    "wrong_id": Outcome.INVALID_RESPONSE,
    "wrong_imp": Outcome.INVALID_RESPONSE,
    "nan_price": Outcome.INVALID_RESPONSE,
    "negative_price": Outcome.INVALID_RESPONSE,
    "huge_price": Outcome.INVALID_RESPONSE,
    "bad_vast": Outcome.CREATIVE_REJECTED,
    "http_creative": Outcome.CREATIVE_REJECTED,
}


@pytest.mark.parametrize(
    ("dialect", "mode"),
    [(name, mode) for name, dialect in DIALECTS.items() for mode in REFUSED_BY_ADAPTERS if mode not in dialect.cannot],
)
def test_our_adapter_accepts_no_answer_that_it_can_see_to_be_spoilt(dialect: str, mode: str) -> None:
    # A VAST tag whose document is dangerous has no reply left to find a creative in.
    is_all_there_is = dialect == "vasttag" and mode == "bad_vast"
    code = Outcome.INVALID_RESPONSE if is_all_there_is else REFUSED_BY_ADAPTERS[mode]

    async def story(client: Client) -> None:
        for number in range(16):
            with pytest.raises(ReplyError) as caught:
                await client.bids(msgspec.structs.replace(REQUEST, auction_id=f"auction-{number}"))
            assert caught.value.code is code
        assert client.server.stats.by_mode == {mode: 16}
        assert (client.server.stats.bids, client.server.stats.careless) == (0, 0)

    _with_server(dialect, in_mode(mode, fill_rate=0.0), story)


def test_silent_never_answers_and_forgets_clients_that_left() -> None:
    async def story(client: Client) -> None:
        stats = client.server.stats
        asking = asyncio.create_task(client.bids())
        await _until(lambda: stats.in_flight == 1)
        assert not asking.done()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await _until(lambda: stats.in_flight == 0)
        assert stats.hung_up == 1

    _with_server("openrtb", in_mode("silent"), story)


def test_slow_answers_after_the_one_that_is_not() -> None:
    async def story(client: Client) -> None:
        first = asyncio.create_task(client.bids())
        await _until(lambda: client.server.stats.in_flight == 1)
        client.server.behaviour = INSTANT
        assert await client.bids()
        assert not first.done(), "still slow, because it was asked for under the old behaviour"
        assert await first, "slow is not silent"

    _with_server("simple", in_mode("slow", slow_ms=700), story)


def test_control_changes_the_given_fields_and_keeps_the_others() -> None:
    async def story(client: Client) -> None:
        url = f"{client.base}/_control"
        async with client.session.post(url, data=b'{"mode": "garbage", "fill_rate": 0.5}') as response:
            assert response.status == 200
        async with client.session.get(url) as response:
            shown = msgspec.json.decode(await response.read(), type=Behaviour)
        assert shown == msgspec.structs.replace(INSTANT, mode="garbage", fill_rate=0.5) == client.server.behaviour
        async with client.session.post(url, data=b'{"mode": "sleepy"}') as response:
            assert response.status == 400
            assert "unknown mode 'sleepy'; known are ok, silent" in await response.text()
        assert client.server.behaviour == shown, "a refused change changes nothing"

    _with_server("simple", INSTANT, story)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"fillrate": 1}',
        b'{"fill_rate": 1.5}',
        b'{"fill_rate": "1"}',
        b'{"latency_p99_ms": 0.0001, "latency_p50_ms": 1}',
        b'{"price_p95_micros": 1}',
        b'{"currency": "dollars"}',
    ],
)
def test_an_impossible_behaviour_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        changed(Behaviour(), body, DIALECTS["openrtb"])


def test_stats_count_bids_and_declines() -> None:
    behaviour = msgspec.structs.replace(INSTANT, fill_rate=0.5)
    requests = [msgspec.structs.replace(REQUEST, auction_id=f"auction-{i}") for i in range(60)]
    expected = sum(decide(behaviour, SEED, "kite", request.auction_id).wants_to_bid for request in requests)
    assert 0 < expected < 60

    async def story(client: Client) -> None:
        answers = await asyncio.gather(*(client.bids(request) for request in requests))
        assert sum(map(len, answers)) == expected
        async with client.session.get(f"{client.base}/_stats") as response:
            stats = json.loads(await response.read())
        assert (stats["requests"], stats["bids"], stats["no_bids"]) == (60, expected, 60 - expected)
        assert stats["by_mode"] == {"ok": 60}
        assert stats["in_flight"] == 0

    _with_server("simple", behaviour, story)


def test_a_process_serves_is_controlled_and_comes_back_at_the_same_address(tmp_path: Path) -> None:
    with LocalAggregator("kite", "openrtb", log_dir=tmp_path, seed=SEED, profile="instant") as aggregator:
        first = _ask(aggregator)
        assert len(first) == 1
        assert aggregator.control() == INSTANT
        assert aggregator.control(mode="http_500").mode == "http_500"
        with pytest.raises(ReplyError):
            _ask(aggregator)
        with pytest.raises(CrashError, match="unknown mode 'sleepy'"):
            aggregator.control(mode="sleepy")
        stats = aggregator.stats()
        assert (stats.requests, stats.bids, stats.by_mode) == (2, 1, {"ok": 1, "http_500": 1})

        url = aggregator.url
        aggregator.kill()
        with pytest.raises(CrashError, match="does not answer"):
            aggregator.stats()
        aggregator.start()
        assert aggregator.url == url
        assert _ask(aggregator) == first, "the seed decides, not the process"


def test_a_process_ends_cleanly_although_requests_hang(tmp_path: Path) -> None:
    with LocalAggregator("kite", "simple", log_dir=tmp_path, profile="instant") as aggregator:
        aggregator.control(mode="silent")

        async def hang_and_stop() -> int | None:
            async with aiohttp.ClientSession() as session:
                hanging = asyncio.create_task(session.get(f"{aggregator.url}?id=1&box=b&channel=c&slot_ms=30000"))
                loop = asyncio.get_running_loop()
                while (await loop.run_in_executor(None, aggregator.stats)).in_flight == 0:
                    pass
                code = await loop.run_in_executor(None, aggregator.stop)
                await asyncio.gather(hanging, return_exceptions=True)
                return code

        assert asyncio.run(hang_and_stop()) == 0


def test_unknown_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown profile 'lazy'; known are steady"):
        LocalAggregator("kite", "simple", log_dir=tmp_path, profile="lazy")


def _ask(aggregator: LocalAggregator) -> list[Bid]:
    adapter = build_adapter(
        AggregatorConfig(
            name=aggregator.name,
            adapter=aggregator.dialect,
            url=aggregator.url,
            options=OPTIONS[aggregator.dialect],
        )
    )

    async def exchange() -> list[Bid]:
        (call,) = adapter.make_requests(REQUEST)
        async with (
            aiohttp.ClientSession() as session,
            session.request(call.method, call.url, data=call.body, headers=call.headers) as response,
        ):
            reply = HttpReply(status=response.status, body=await response.read())
            return list(adapter.make_bids(call, reply).bids)

    return asyncio.run(exchange())


async def _until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until the condition holds; the test's own time limit ends a wait in vain."""
    while not condition():  # noqa: ASYNC110  the counters under test have no event
        await asyncio.sleep(0.001)
