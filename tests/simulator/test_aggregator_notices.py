"""An aggregator counts what it is told about its bids, and may be hard of hearing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from simulator.aggregators import LocalAggregator
from simulator.aggregators import notices as notices_module
from simulator.aggregators.notices import Notice
from tests.simulator.aggregator_client import AUCTION, INSTANT, Client, in_mode, with_server

NOTICES_ON = in_mode("ok", notices=True)
MACROS = {"${AUCTION_PRICE}": "12.5", "${AUCTION_LOSS}": "102", "${AUCTION_MIN_TO_WIN}": "13.01"}


def told(url: str) -> str:
    for macro, value in MACROS.items():
        assert macro in url
        url = url.replace(macro, value)
    return url


async def send(client: Client, url: str, method: str = "GET") -> int:
    async with client.session.request(method, url) as response:
        return response.status


async def listed(client: Client) -> list[list[Any]]:
    async with client.session.get(f"{client.base}/_notices") as response:
        return msgspec.json.decode(await response.read(), type=list[list[Any]])


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [("openrtb", ["nurl", "lurl", "burl"]), ("simple", ["win_url", "loss_url", "bill_url"])],
)
def test_bids_carry_addresses_at_which_notices_are_counted(dialect: str, fields: list[str]) -> None:
    async def story(client: Client) -> None:
        (offer,) = await client.offers()
        assert list(offer.notices) == fields
        for url in offer.notices.values():
            assert url.startswith(client.base)
            assert await send(client, told(url)) == 204
        assert await send(client, told(offer.notices[fields[0]]), "POST") == 204
        stats = client.server.stats
        assert stats.notices == {"win": 2, "loss": 1, "billing": 1}
        assert (stats.notice_repeats, stats.notices_refused) == (1, 0)
        assert await listed(client) == [
            [event, AUCTION, offer.bid, "12.5", count, "102", "13.01"]
            for event, count in (("win", 2), ("loss", 1), ("billing", 1))
        ]

    with_server(dialect, NOTICES_ON, story)


def test_every_ad_of_a_break_has_notices_of_its_own() -> None:
    async def story(client: Client) -> None:
        offers = await client.offers(slot_s=90, max_ads=4)
        assert len(offers) > 1
        for offer in offers:
            await send(client, told(offer.notices["bill_url"]))
        assert client.server.stats.notices == {"billing": len(offers)}
        assert client.server.stats.notice_repeats == 0

    with_server("simple", NOTICES_ON, story)


def test_addresses_name_the_origin_that_clients_can_reach() -> None:
    async def story(client: Client) -> None:
        (offer,) = await client.offers()
        assert {url.partition("/notice")[0] for url in offer.notices.values()} == {"http://ads.example.com:8080"}

    with_server("simple", in_mode("ok", notices=True, notice_origin="http://ads.example.com:8080"), story)


def test_no_addresses_unless_notices_are_on() -> None:
    async def story(client: Client) -> None:
        assert (await client.offers())[0].notices == {}

    with_server("openrtb", INSTANT, story)


def test_a_refused_notice_is_no_repeat_when_it_comes_again() -> None:
    async def story(client: Client) -> None:
        url = told((await client.offers())[0].notices["nurl"])
        client.server.behaviour = in_mode("ok", notice_mode="http_500")
        assert [await send(client, url) for _ in range(2)] == [500, 500]
        assert (await listed(client))[0][4] == 0
        client.server.behaviour = INSTANT
        assert await send(client, url) == 204
        stats = client.server.stats
        assert (stats.notices, stats.notice_repeats, stats.notices_refused) == ({"win": 1}, 0, 2)

    with_server("openrtb", NOTICES_ON, story)


def test_a_silent_notice_is_never_answered() -> None:
    async def story(client: Client) -> None:
        url = told((await client.offers())[0].notices["nurl"])
        client.server.behaviour = in_mode("ok", notice_mode="silent")
        sending = asyncio.create_task(send(client, url))
        await client.until(lambda: client.server.stats.notices_refused == 1)
        assert not sending.done()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert client.server.stats.notices == {}

    with_server("openrtb", NOTICES_ON, story)


def test_flaky_refuses_its_share_of_attempts_and_the_same_ones_again() -> None:
    async def story(client: Client) -> list[int]:
        urls = [told((await client.offers(f"auction-{number}"))[0].notices["nurl"]) for number in range(100)]
        return [await send(client, url) for url in urls for _ in range(3)]

    behaviour = in_mode("ok", notices=True, notice_mode="flaky", notice_failures=0.3)
    statuses = with_server("openrtb", behaviour, story)
    assert statuses.count(500) / len(statuses) == pytest.approx(0.3, abs=0.1)
    assert statuses == with_server("openrtb", behaviour, story)
    attempts = [statuses[i : i + 3] for i in range(0, 300, 3)]
    assert [500, 204, 204] in attempts, "an attempt that follows a refusal has a chance of its own"


@pytest.mark.parametrize("query", ["", "?event=win&auction=a", "?event=theft&auction=a&bid=b"])
def test_what_is_no_notice_is_refused(query: str) -> None:
    async def story(client: Client) -> None:
        assert await send(client, f"{client.base}/notice{query}") == 400
        assert await listed(client) == []

    with_server("simple", INSTANT, story)


def test_notices_are_forgotten_beyond_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices_module, "MAX_NOTICES", 3)

    async def story(client: Client) -> None:
        for number in range(5):
            await send(client, f"{client.base}/notice?event=win&auction={number}&bid=b")
        assert [auction for _, auction, *_ in await listed(client)] == ["2", "3", "4"]
        assert client.server.stats.notices == {"win": 5}

    with_server("simple", INSTANT, story)


def test_a_process_tells_the_notices_that_it_got(tmp_path: Path) -> None:
    with LocalAggregator("kite", "simple", log_dir=tmp_path, profile="instant") as aggregator:
        base = aggregator.url.removesuffix("/bid")

        async def story() -> None:
            async with aiohttp.ClientSession() as session:
                await session.get(f"{base}/notice?event=loss&auction=a&bid=b&price=1&loss=102&min=2")

        asyncio.run(story())
        assert aggregator.notices() == [Notice("loss", "a", "b", "1", 1, "102", "2")]
        assert aggregator.stats().notices == {"loss": 1}
