"""Every way in which an aggregator fails, as it shows on the wire."""

from __future__ import annotations

import asyncio
import json
import ssl
import zlib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pyarrow as pa
import pytest
from lxml import etree

from datastreamx.clock import ManualClock
from simulator.aggregators import LocalAggregator
from simulator.aggregators.dialects import DIALECTS
from simulator.aggregators.modes import MODES
from simulator.aggregators.modes.bodies import NESTING_DEPTH, OVERSIZE_BYTES
from simulator.aggregators.modes.bombs import DECODED_BYTES, deflate_bomb, gzip_bomb, zstd_bomb
from simulator.aggregators.modes.offers import BLOCKED_DOMAIN, HUGE_PRICES, NOT_NUMBERS
from simulator.aggregators.server import AggregatorServer
from simulator.aggregators.tls import CA_FILE, server_context
from tests.simulator.aggregator_client import (
    AUCTION,
    INSTANT,
    NAME,
    SEED,
    Client,
    Offered,
    bid_request,
    in_mode,
    offers_in,
    with_server,
)

FOREVER_MS = 600_000


every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


@pytest.mark.parametrize("mode", ["http_500", "silent", "garbage", "redirect"])
@every_dialect
def test_a_spoilt_answer_comes_even_where_it_would_decline(dialect: str, mode: str) -> None:
    async def story(client: Client) -> None:
        asking = asyncio.create_task(client.ask())
        await client.until(lambda: client.server.stats.by_mode == {mode: 1})
        if mode == "silent":
            assert not asking.done()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        else:
            reply = await asking
            assert reply.status in {200, 302, 500}
            assert reply.body != DIALECTS[dialect].no_bid
        assert (client.server.stats.bids, client.server.stats.no_bids) == (0, 0)

    with_server(dialect, in_mode(mode, fill_rate=0.0), story)


@every_dialect
def test_drip_sends_the_head_at_once_and_then_single_bytes(dialect: str) -> None:
    async def story(client: Client) -> None:
        reader, writer = await client.raw()
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        # The second byte would come in ten minutes.
        assert len(await reader.read(1_000)) == 1
        assert client.server.stats.in_flight == 1
        writer.close()
        await client.until(lambda: client.server.stats.in_flight == 0)
        assert client.server.stats.hung_up == 1
        client.server.behaviour = in_mode("drip", drip_interval_ms=0.001)
        dripped = await client.offers()
        client.server.behaviour = INSTANT
        assert dripped == await client.offers()

    with_server(dialect, in_mode("drip", drip_interval_ms=FOREVER_MS), story)


@every_dialect
def test_slow_head_sends_single_bytes_from_the_status_line_on(dialect: str) -> None:
    async def story(client: Client) -> None:
        reader, writer = await client.raw()
        assert await reader.read(1_000) == b"H"
        assert client.server.stats.in_flight == 1
        writer.close()
        await client.until(lambda: client.server.stats.in_flight == 0)
        client.server.behaviour = in_mode("slow_head", drip_interval_ms=0.001)
        dripped = await client.offers()
        client.server.behaviour = INSTANT
        assert dripped == await client.offers()

    with_server(dialect, in_mode("slow_head", drip_interval_ms=FOREVER_MS), story)


@every_dialect
def test_chunk_flood_never_ends_and_stops_with_its_client(dialect: str) -> None:
    async def story(client: Client) -> None:
        reader, writer = await client.raw()
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head.lower()
        flood = await reader.readexactly(1 << 20)
        assert flood.count(b" ") > 0.99 * len(flood)
        assert client.server.stats.in_flight == 1
        writer.close()
        await client.until(lambda: client.server.stats.in_flight == 0)
        assert client.server.stats.hung_up == 1

    with_server(dialect, in_mode("chunk_flood"), story)


@every_dialect
def test_reset_cuts_the_connection_in_the_middle_of_the_body(dialect: str) -> None:
    async def story(client: Client) -> None:
        method, path, body = bid_request(dialect, AUCTION)
        async with client.session.request(method, client.base + path, data=body) as response:
            assert response.status == 200
            with pytest.raises((aiohttp.ClientPayloadError, ConnectionResetError)):
                await response.read()
        client.server.behaviour = INSTANT
        assert await client.offers(), "the server goes on"

    with_server(dialect, in_mode("reset"), story)


@every_dialect
def test_a_redirect_leads_to_another_host_and_following_it_is_counted(dialect: str) -> None:
    async def story(client: Client) -> None:
        reply = await client.ask()
        assert reply.status == 302
        location = urlsplit(reply.headers["Location"])
        assert location.hostname not in {None, "127.0.0.1"}
        assert client.server.stats.careless == 0
        method, path, body = bid_request(dialect, AUCTION)
        async with client.session.request(method, client.base + path, data=body) as followed:
            assert followed.status == 204
        assert client.server.stats.careless == 1

    with_server(dialect, in_mode("redirect"), story)


@every_dialect
def test_a_storm_comes_and_goes_by_the_clock(dialect: str) -> None:
    clock = ManualClock()

    async def story(client: Client) -> list[int]:
        statuses = []
        for _ in range(21):
            statuses.append((await client.ask()).status)
            clock.advance(1_000)
        return statuses

    behaviour = in_mode("storm", storm_period_s=10.0, storm_share=0.3)
    statuses = with_server(dialect, behaviour, story, clock)
    assert statuses == ([200] * 7 + [503] * 3) * 2 + [200]


@every_dialect
def test_an_oversized_answer_is_a_sound_one_beyond_a_mebibyte(dialect: str) -> None:
    async def story(client: Client) -> None:
        reply = await client.ask()
        assert len(reply.body) > OVERSIZE_BYTES == 1 << 20
        client.server.behaviour = INSTANT
        assert offers_in(dialect, reply) == await client.offers()

    with_server(dialect, in_mode("oversized"), story)


@every_dialect
def test_a_deep_answer_is_small_and_too_deep_for_parsers_that_recurse(dialect: str) -> None:
    async def story(client: Client) -> bytes:
        return (await client.ask()).body

    body = with_server(dialect, in_mode("deep"), story)
    assert len(body) < 200_000
    if dialect == "vasttag":
        assert body.count(b"<a>") == body.count(b"</a>") == NESTING_DEPTH
        with pytest.raises(etree.XMLSyntaxError, match=r"[Dd]epth"):
            etree.fromstring(body)
    else:
        assert body.count(b"[" * NESTING_DEPTH) == 1
        with pytest.raises(RecursionError):
            json.loads(body)


@pytest.mark.parametrize("mode", ["gzip_bomb", "deflate_bomb", "zstd_bomb"])
def test_a_bomb_is_small_on_the_wire_and_says_how_it_is_coded(mode: str) -> None:
    async def story(client: Client) -> None:
        method, path, body = bid_request("openrtb", AUCTION)
        async with aiohttp.ClientSession(auto_decompress=False) as plain:
            response = await plain.request(method, client.base + path, data=body)
            assert response.headers["Content-Encoding"] == mode.removesuffix("_bomb")
            assert len(await response.read()) < 256 << 10

    with_server("openrtb", in_mode(mode), story)


@pytest.mark.parametrize("mode", ["gzip_bomb", "deflate_bomb"])
def test_an_http_client_inflates_a_bomb_unless_it_counts_what_comes_out(mode: str) -> None:
    async def story(client: Client) -> int:
        method, path, body = bid_request("simple", AUCTION)
        decoded = 0
        async with client.session.request(method, client.base + path, data=body) as response:
            async for chunk in response.content.iter_any():
                decoded += len(chunk)
                if decoded > 8 << 20:
                    break
        return decoded

    assert with_server("simple", in_mode(mode), story) > 8 << 20


@pytest.mark.parametrize(("body", "window_bits"), [(gzip_bomb, 16 + zlib.MAX_WBITS), (deflate_bomb, zlib.MAX_WBITS)])
def test_a_bomb_is_whole_with_its_checksum(body: Callable[[], bytes], window_bits: int) -> None:
    decoder, decoded, rest = zlib.decompressobj(window_bits), 0, body()
    while rest:
        decoded += len(decoder.decompress(rest, 1 << 24))
        rest = decoder.unconsumed_tail
    assert decoder.eof, "else the checksum would not have been compared"
    assert decoded == DECODED_BYTES >= 200 << 20


def test_a_zstd_bomb_is_whole() -> None:
    stream = pa.CompressedInputStream(pa.BufferReader(zstd_bomb()), "zstd")
    decoded = 0
    while chunk := stream.read(1 << 24):
        assert not chunk.strip()
        decoded += len(chunk)
    assert decoded == DECODED_BYTES


# What each mode does to the offer that `ok` would make, or to those of several auctions.
CHANGES: dict[str, Callable[[Offered, Offered], bool]] = {
    "wrong_id": lambda honest, spoilt: spoilt == honest._replace(auction=f"not-{honest.auction}"),
    "wrong_imp": lambda honest, spoilt: spoilt == honest._replace(imp=f"not-{honest.imp}"),
    "nan_price": lambda honest, spoilt: spoilt == honest._replace(price=spoilt.price) and spoilt.price in NOT_NUMBERS,
    "negative_price": lambda honest, spoilt: spoilt == honest._replace(price=f"-{honest.price}"),
    "huge_price": lambda _, spoilt: spoilt.price in HUGE_PRICES and Decimal(spoilt.price) > 2**63 / 10**6 - 1,
    "wrong_currency": lambda honest, spoilt: spoilt == honest._replace(currency="XTS"),
    "http_creative": lambda honest, spoilt: (
        spoilt == honest._replace(creative=(honest.creative or "").replace("https:", "http:"))
        and (spoilt.creative or "").startswith("http:")
    ),
    "long_creative": lambda honest, spoilt: spoilt == honest._replace(duration_ms=31_000),
    "blocked_advertiser": lambda honest, spoilt: spoilt == honest._replace(advertiser=BLOCKED_DOMAIN),
}


@pytest.mark.parametrize(
    ("dialect", "mode"),
    [(name, mode) for name, dialect in DIALECTS.items() for mode in CHANGES if mode not in dialect.cannot],
)
def test_a_spoilt_offer_differs_from_the_honest_one_in_one_thing(dialect: str, mode: str) -> None:
    async def story(client: Client) -> None:
        for number in range(8):
            auction = f"auction-{number}"
            client.server.behaviour = INSTANT
            (honest,) = await client.offers(auction)
            client.server.behaviour = in_mode(mode, fill_rate=0.0)
            (spoilt,) = await client.offers(auction)
            assert CHANGES[mode](honest, spoilt), (auction, honest, spoilt)

    with_server(dialect, INSTANT, story)


@pytest.mark.parametrize("dialect_with_blocks", ["openrtb", "simple"])
def test_the_blocked_advertiser_is_one_of_those_that_the_request_names(dialect_with_blocks: str) -> None:
    async def story(client: Client) -> None:
        (offer,) = await client.offers(blocked=("one.example", "two.example"))
        assert offer.advertiser in {"one.example", "two.example"}

    with_server(dialect_with_blocks, in_mode("blocked_advertiser"), story)


@every_dialect
def test_bad_vast_holds_entities_that_a_careless_parser_resolves(dialect: str) -> None:
    async def story(client: Client) -> list[str]:
        return [(await client.offers(f"auction-{number}"))[0].creative or "" for number in range(32)]

    documents = with_server(dialect, in_mode("bad_vast"), story)
    attacks = [
        [document for document in documents if sign in document]
        for sign in ('SYSTEM "file:', '[<!ENTITY e9 SYSTEM "http:', 'DOCTYPE VAST SYSTEM "http:', "&e8;&e8;")
    ]
    assert all(attacks), f"seed {SEED}"
    assert sum(map(len, attacks)) == len(documents)
    careless = etree.XMLParser(resolve_entities=True, load_dtd=True)
    assert "root:" in etree.fromstring(attacks[0][0].encode(), careless).findtext(".//AdTitle")


@pytest.mark.parametrize("mode", MODES)
def test_the_next_request_after_any_mode_is_answered(mode: str) -> None:
    async def story(client: Client) -> None:
        asking = asyncio.create_task(client.ask())
        await client.until(lambda: client.server.stats.by_mode == {mode: 1})
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        client.server.behaviour = INSTANT
        assert await client.offers()
        await client.until(lambda: client.server.stats.in_flight == 0)

    with_server("openrtb", in_mode(mode), story)


@every_dialect
def test_a_mode_without_words_for_it_is_refused(dialect: str) -> None:
    async def story(client: Client) -> None:
        for mode in MODES:
            body = msgspec.json.encode({"mode": mode})
            async with client.session.post(f"{client.base}/_control", data=body) as response:
                assert (response.status == 400) == (mode in DIALECTS[dialect].cannot)

    with_server(dialect, INSTANT, story)
    for mode in DIALECTS[dialect].cannot:
        with pytest.raises(ValueError, match=f"unknown mode '{mode}'"):
            AggregatorServer(NAME, DIALECTS[dialect], SEED, in_mode(mode))


def test_tls_is_refused_by_a_client_that_does_not_know_the_authority(tmp_path: Path) -> None:
    async def story() -> None:
        server = AggregatorServer(NAME, DIALECTS["simple"], SEED, INSTANT)
        async with server.serving(ssl_context=server_context(tmp_path)) as port, aiohttp.ClientSession() as session:
            url = f"https://127.0.0.1:{port}{bid_request('simple', AUCTION)[1]}"
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(url)
            context = ssl.create_default_context(cafile=tmp_path / CA_FILE)
            async with session.get(url, ssl=context) as response:
                assert json.loads(await response.read())["id"] == AUCTION

    asyncio.run(story())


def test_a_tls_process_keeps_its_certificate_over_a_restart(tmp_path: Path) -> None:
    with LocalAggregator(NAME, "openrtb", log_dir=tmp_path, profile="instant", tls=True) as aggregator:
        assert aggregator.url.startswith("https://")
        assert aggregator.ca_file is not None
        authority = aggregator.ca_file.read_bytes()
        assert aggregator.stats().requests == 0
        aggregator.kill()
        aggregator.start()
        assert aggregator.stats().requests == 0
        assert aggregator.ca_file.read_bytes() == authority
        (server,) = aggregator.ca_file.parent.glob("server.pem")
        assert server.stat().st_mode & 0o077 == 0


@every_dialect
def test_modes_draw_from_the_auction_so_that_a_repeated_request_gets_the_same(dialect: str) -> None:
    async def story(client: Client) -> None:
        for mode in ("huge_price", "bad_vast"):
            client.server.behaviour = in_mode(mode)
            assert (await client.ask()).body == (await client.ask()).body

    with_server(dialect, INSTANT, story)
