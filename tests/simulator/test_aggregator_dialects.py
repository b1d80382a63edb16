"""An honest aggregator does what the request asks for, in every dialect."""

from __future__ import annotations

from decimal import Decimal

import pytest

from simulator.aggregators.behaviour import decide, price_at
from simulator.aggregators.catalogue import Catalogue
from simulator.aggregators.dialects import DIALECTS
from tests.simulator.aggregator_client import INSTANT, NAME, SEED, Client, Offered, in_mode, with_server

AUCTIONS = [f"auction-{number}" for number in range(40)]
POD_DIALECTS = ["openrtb", "simple"]
BRANDS = {
    f"{brand}.example"
    for brand in ("kestrel-coffee", "alder-bank", "northlight-cars", "bluefin-travel", "harbor-insurance")
}


def price(offer: Offered) -> int:
    return int(Decimal(offer.price) * 1_000_000)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_single_slot_gets_one_offer_that_fits(dialect: str) -> None:
    async def story(client: Client) -> None:
        for auction in AUCTIONS:
            (offer,) = await client.offers(auction, slot_s=15)
            assert offer.duration_ms <= 15_000
            assert price(offer) == decide(INSTANT, SEED, NAME, auction).price_micros
            assert offer.currency == "USD"
            assert offer.creative == f"https://cdn.kite.example/{offer.ad}.xml"
            assert offer.auction in {auction, None}
            assert offer.imp in {"slot-7", None}
        assert client.server.stats.bids == client.server.stats.ads == len(AUCTIONS)

    with_server(dialect, INSTANT, story)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_slot_that_is_too_short_gets_the_no_bid_of_the_dialect(dialect: str) -> None:
    async def story(client: Client) -> None:
        reply = await client.ask(slot_s=9)
        if dialect == "vasttag":
            assert (reply.status, reply.body) == (200, b'<VAST version="4.0"/>')
            assert reply.headers["Content-Type"] == "application/xml"
        else:
            assert (reply.status, reply.body) == (204, b"")
        assert client.server.stats.no_bids == 1

    with_server(dialect, INSTANT, story)


@pytest.mark.parametrize("dialect", POD_DIALECTS)
def test_a_break_gets_several_offers_of_different_advertisers_that_fit_together(dialect: str) -> None:
    async def story(client: Client) -> None:
        counts = set()
        for auction in AUCTIONS:
            offers = await client.offers(auction, slot_s=90, max_ads=4)
            counts.add(len(offers))
            assert sum(offer.duration_ms for offer in offers) <= 90_000
            assert len({offer.advertiser for offer in offers}) == len(offers)
            assert len({offer.bid for offer in offers}) == len(offers)
            plan = decide(INSTANT, SEED, NAME, auction)
            assert [price(offer) for offer in offers] == [price_at(plan, place) for place in range(len(offers))]
            assert len({price(offer) for offer in offers}) == len(offers)
        assert max(counts) == 4
        stats = client.server.stats
        assert stats.bids == len(AUCTIONS)
        assert stats.ads > 2 * stats.bids

    with_server(dialect, INSTANT, story)


def test_openrtb_keeps_the_longest_single_ad_apart_from_the_length_of_the_break() -> None:
    async def story(client: Client) -> None:
        for auction in AUCTIONS:
            offers = await client.offers(auction, slot_s=60, longest_s=15, max_ads=6)
            assert max(offer.duration_ms for offer in offers) <= 15_000
            assert len(offers) >= 4

    with_server("openrtb", INSTANT, story)


@pytest.mark.parametrize("dialect", POD_DIALECTS)
def test_blocked_advertisers_are_not_offered(dialect: str) -> None:
    async def story(client: Client) -> None:
        without = {(await client.offers(auction))[0].advertiser for auction in AUCTIONS}
        assert without & BRANDS, f"seed {SEED} draws none of the advertisers to block"
        blocked = tuple(sorted(BRANDS))
        for auction in AUCTIONS:
            for slot_s, max_ads in ((30, 1), (90, 4)):
                offers = await client.offers(auction, slot_s=slot_s, max_ads=max_ads, blocked=blocked)
                assert offers
                assert not BRANDS & {offer.advertiser for offer in offers}

    with_server(dialect, INSTANT, story)


def test_an_aggregator_whose_advertisers_are_all_blocked_declines() -> None:
    everyone = {ad.advertiser_domain for ad in Catalogue(NAME)._ads}

    async def story(client: Client) -> None:
        assert await client.offers(blocked=tuple(everyone)) == []
        assert client.server.stats.no_bids == 1

    with_server("simple", INSTANT, story)


@pytest.mark.parametrize("dialect", POD_DIALECTS)
def test_of_a_break_only_the_offers_at_the_floor_are_made(dialect: str) -> None:
    async def story(client: Client) -> None:
        every = await client.offers(slot_s=90, max_ads=4)
        above = await client.offers(slot_s=90, max_ads=4, floor=every[1].price)
        assert above == every[:2]
        client.server.behaviour = in_mode("ok", respects_floor=False)
        assert await client.offers(slot_s=90, max_ads=4, floor=every[1].price) == every

    with_server(dialect, INSTANT, story)


@pytest.mark.parametrize(
    ("extra", "box", "history", "consent"),
    [
        ({}, 0, 0, 0),
        ({"user": {"id": "8d5e"}}, 1, 0, 0),
        ({"user": {"data": [{"segment": [{"name": "prev_channel", "value": "ch1"}]}]}}, 0, 1, 0),
        ({"ext": {"stb": {"prev_channel": "ch1"}}}, 0, 1, 0),
        ({"user": {"consent": "CP1R2"}}, 0, 0, 1),
        ({"regs": {"us_privacy": "1YNN"}}, 0, 0, 1),
    ],
    ids=str,
)
def test_openrtb_counts_what_it_is_told_of_the_viewer(
    extra: dict[str, object], box: int, history: int, consent: int
) -> None:
    async def story(client: Client) -> None:
        assert await client.offers(extra=extra)
        stats = client.server.stats
        assert (stats.told_box, stats.told_history, stats.told_consent) == (box, history, consent)

    with_server("openrtb", INSTANT, story)


@pytest.mark.parametrize(
    ("extra", "box", "history", "consent"),
    [
        ({"box": "8d5e"}, 1, 0, 0),
        ({"last_channel": "ch1"}, 0, 1, 0),
        ({"consent_history": 0}, 0, 0, 1),
        ({"gpp": "DBABTA~1YNN"}, 0, 0, 1),
    ],
    ids=str,
)
def test_simple_counts_what_it_is_told_of_the_viewer(
    extra: dict[str, object], box: int, history: int, consent: int
) -> None:
    async def story(client: Client) -> None:
        assert await client.offers(extra=extra)
        stats = client.server.stats
        assert (stats.told_box, stats.told_history, stats.told_consent) == (box, history, consent)

    with_server("simple", INSTANT, story)
