"""HTTP with one aggregator, against real sockets: what is sent once, what is cut off, whom it trusts."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from msgspec.structs import replace
from prometheus_client import REGISTRY

from datastreamx.clock import ManualClock
from datastreamx.config.secrets import Secret
from datastreamx.errors import ConfigError
from datastreamx.model.auction import Outcome
from operators.bidding.caller import Caller
from simulator.aggregators.behaviour import PROFILES
from simulator.aggregators.modes.bombs import DECODED_BYTES, deflate_bomb, gzip_bomb, zstd_bomb
from tests.builders import T0
from tests.operators.houses import (
    NO_BID,
    Answer,
    Open,
    Request,
    Stub,
    aggregator,
    always,
    code_of,
    configured,
    fresh,
    http,
    never,
    offer,
    opened,
    run,
    simulated,
    stubs,
    until,
)

LIMIT = 10_000
METHODS = ["GET", "POST"]


def with_stub(
    answer: Answer, story: Callable[[Open, Stub], Awaitable[None]], method: str = "POST", **changes: Any
) -> None:
    async def play() -> None:
        async with stubs(answer) as (server,):
            one = aggregator("alpha", server.url, options={"method": method}, **changes)
            async with opened(configured(one, auction={"max_response_bytes": LIMIT})) as house:
                await story(house, server)

    run(play())


def outcome_of(reply: bytes) -> tuple[Outcome, str | None]:
    """Outcome of a call that gets this reply."""
    seen: list[tuple[Outcome, str | None]] = []

    async def story(house: Open, server: Stub) -> None:
        (outcome,) = (await house.auction()).outcomes
        assert len(server.requests) == 1
        seen.append((outcome.code, outcome.detail))

    with_stub(always(reply), story)
    return seen[0]


def sent(server: Stub, auction: int) -> int:
    """How often the request of this auction was sent."""
    return sum(f"{auction:032x}" in request.text for request in server.requests)


async def first_on_its_connection(request: Request) -> bytes | None:
    """Answers only the first request of each connection, and hangs up at the second: a stale connection."""
    return NO_BID if request.place == 1 else None


@pytest.mark.parametrize("method", METHODS)
def test_request_on_a_stale_connection_is_sent_once_more_with_the_same_id(method: str) -> None:
    async def story(house: Open, server: Stub) -> None:
        assert code_of(await house.auction(fresh(1))) is Outcome.NO_BID
        (outcome,) = (await house.auction(fresh(2))).outcomes
        assert outcome.code is Outcome.NO_BID
        assert outcome.connection_reused is False
        assert [request.connection for request in server.requests] == [1, 1, 2]
        assert (sent(server, 1), sent(server, 2)) == (1, 2)

    with_stub(first_on_its_connection, story, method)


@pytest.mark.parametrize("method", METHODS)
def test_request_on_stale_connections_is_not_sent_a_third_time(method: str) -> None:
    gate = asyncio.Event()

    async def story(house: Open, server: Stub) -> None:
        filling = [asyncio.ensure_future(house.auction(fresh(number))) for number in range(1, 5)]
        await until(lambda: len(server.requests) == 4)
        gate.set()
        await asyncio.gather(*filling)
        assert server.connections == 4
        assert code_of(await house.auction(fresh(5))) is Outcome.UNREACHABLE
        assert (sent(server, 5), server.connections) == (2, 4)

    async def answer(request: Request) -> bytes | None:
        await gate.wait()
        return await first_on_its_connection(request)

    with_stub(answer, story, method)


@pytest.mark.parametrize("method", METHODS)
def test_request_on_a_new_connection_is_never_repeated(method: str) -> None:
    async def story(house: Open, server: Stub) -> None:
        assert code_of(await house.auction(fresh(1))) is Outcome.UNREACHABLE
        assert sent(server, 1) == 1

    with_stub(always(None), story, method)


def test_connections_opened_are_counted_whatever_becomes_of_the_call() -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("datastreamx_aggregator_connections_total", {"aggregator": "churn"}) or 0.0

    async def play(answer: Answer, calls: int) -> None:
        async with stubs(answer) as (server,), opened(configured(aggregator("churn", server.url))) as house:
            for number in range(calls):
                await house.auction(fresh(number))

    before = count()
    run(play(always(NO_BID), 3))
    assert count() - before == 1
    run(play(always(None), 3))
    assert count() - before == 4


def test_redirect_is_an_error_and_not_followed() -> None:
    async def play() -> None:
        async with stubs(always(offer())) as (elsewhere,):
            reply = http(b"", "302 Found", Location=elsewhere.url)
            async with stubs(always(reply)) as (server,), opened(configured(aggregator("alpha", server.url))) as house:
                assert code_of(await house.auction()) is Outcome.ERROR
                assert (len(server.requests), elsewhere.connections) == (1, 0)

    run(play())


def padded(size: int) -> bytes:
    """A sound answer of `size` bytes."""
    body = json.dumps({"ad": "ad-1", "price": 5, "currency": "USD", "pad": ""})
    return body.replace('"pad": ""', '"pad": "' + "x" * (size - len(body)) + '"').encode()


@pytest.mark.parametrize(
    ("coding", "encode"),
    [("identity", bytes), ("gzip", gzip.compress), ("deflate", zlib.compress)],
    ids=["identity", "gzip", "deflate"],
)
def test_body_is_limited_by_its_decoded_size(coding: str, encode: Callable[[bytes], bytes]) -> None:
    for size, code in ((LIMIT, Outcome.WON), (LIMIT + 1, Outcome.OVERSIZE)):
        assert len(padded(size)) == size
        assert outcome_of(http(encode(padded(size)), Content_Encoding=coding))[0] is code


@pytest.mark.parametrize(("coding", "bomb"), [("gzip", gzip_bomb), ("deflate", deflate_bomb)])
def test_bomb_stops_at_the_limit_without_being_unpacked(coding: str, bomb: Callable[[], bytes]) -> None:
    # Cut, so that the limit on what is received does not end it first.
    reply = http(bomb()[: LIMIT - 1], Content_Encoding=coding)
    outcome_of(reply)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert outcome_of(reply)[0] is Outcome.OVERSIZE
        grown = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert grown < 1 << 20 < DECODED_BYTES // 30


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "x-gzip", ""])
def test_content_encoding_that_was_not_asked_for_is_refused(coding: str) -> None:
    code, detail = outcome_of(http(zstd_bomb()[:100], Content_Encoding=coding))
    assert code is Outcome.INVALID_RESPONSE
    assert detail is not None
    assert "was not asked for" in detail


@pytest.mark.parametrize(
    "body", [gzip.compress(padded(200))[:-9], b"\x1f\x8b no gzip at all", padded(200)], ids=["cut", "broken", "plain"]
)
def test_body_that_is_not_what_its_encoding_says_is_invalid(body: bytes) -> None:
    assert outcome_of(http(body, Content_Encoding="gzip"))[0] is Outcome.INVALID_RESPONSE


def test_endless_body_is_left_at_the_limit() -> None:
    async def play() -> None:
        async with (
            simulated("flood", replace(PROFILES["instant"], mode="chunk_flood")) as (server, url),
            opened(configured(aggregator("alpha", url))) as house,
        ):
            assert code_of(await house.auction()) is Outcome.OVERSIZE
            await until(lambda: server.stats.in_flight == 0)
            assert server.stats.hung_up == 1

    run(play())


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
    ],
    ids=["other protocol", "negative length", "long header", "many headers"],
)
def test_what_is_no_http_is_invalid_and_its_record_does_not_repeat_the_address(reply: bytes) -> None:
    """The address may hold a key of ours, and what the aggregator was told of the viewer."""

    async def story(house: Open, _: Stub) -> None:
        (outcome,) = (await house.auction()).outcomes
        assert outcome.code is Outcome.INVALID_RESPONSE
        assert outcome.detail is not None
        assert f"{1:032x}" not in outcome.detail
        assert "/bid" not in outcome.detail

    with_stub(always(reply), story, "GET")


def test_configured_headers_are_sent_and_cannot_be_replaced_by_the_adapter() -> None:
    async def story(house: Open, server: Stub) -> None:
        await house.auction()
        head = server.requests[0].head.lower()
        assert "x-key: top\r\n" in head
        assert head.count("content-type:") == 1
        assert "content-type: application/x-ours\r\n" in head
        assert "accept-encoding: gzip, deflate\r\n" in head

    headers = {"X-Key": Secret("top"), "Content-Type": Secret("application/x-ours"), "accept-encoding": Secret("br")}
    with_stub(always(NO_BID), story, headers=headers)


def test_phases_of_a_call_are_recorded() -> None:
    async def story(house: Open, _: Stub) -> None:
        (first,) = (await house.auction(fresh(1))).outcomes
        (second,) = (await house.auction(fresh(2))).outcomes
        assert (first.connection_reused, second.connection_reused) == (False, True)
        assert first.connect_us is not None
        assert second.connect_us is None
        for outcome in (first, second):
            assert outcome.first_byte_us is not None
            assert outcome.latency_us is not None
            assert 0 < outcome.first_byte_us <= outcome.latency_us
            assert outcome.http_status == 200
            assert outcome.response_bytes == len(offer().partition(b"\r\n\r\n")[2])

    with_stub(always(offer()), story)


def test_address_where_nobody_listens_is_unreachable() -> None:
    async def play() -> None:
        async with stubs(never) as (server,):
            url = server.url
        async with opened(configured(aggregator("alpha", url))) as house:
            assert code_of(await house.auction()) is Outcome.UNREACHABLE

    run(play())


class _Authorities:
    """A server's and a client's."""

    def __init__(self, folder: Path) -> None:
        servers, clients = trustme.CA(), trustme.CA()
        self.ca_file = str(folder / "servers.pem")
        self.certificate_file = str(folder / "client.pem")
        self.key_file = str(folder / "client.key")
        servers.cert_pem.write_to_path(self.ca_file)
        client = clients.issue_cert("stb.example")
        client.cert_chain_pems[0].write_to_path(self.certificate_file)
        client.private_key_pem.write_to_path(self.key_file)
        self.plain = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.mutual = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.mutual.verify_mode = ssl.CERT_REQUIRED
        clients.configure_trust(self.mutual)
        for context in (self.plain, self.mutual):
            servers.issue_cert("127.0.0.1").configure_cert(context)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> _Authorities:
    return _Authorities(tmp_path_factory.mktemp("tls"))


def outcome_by_tls(context: ssl.SSLContext, **changes: Any) -> tuple[Outcome, int]:
    async def play() -> tuple[Outcome, int]:
        async with (
            Stub(always(offer())).serving(context) as server,
            opened(configured(aggregator("alpha", server.url, **changes))) as house,
        ):
            return code_of(await house.auction()), len(server.requests)

    return run(play())


def test_certificate_that_is_not_trusted_makes_it_unreachable_and_nothing_is_sent(authorities: _Authorities) -> None:
    assert outcome_by_tls(authorities.plain) == (Outcome.UNREACHABLE, 0)


def test_certificate_of_the_configured_authority_is_trusted(authorities: _Authorities) -> None:
    assert outcome_by_tls(authorities.plain, ssl_ca_file=authorities.ca_file) == (Outcome.WON, 1)


def test_mutual_tls_needs_and_sends_the_configured_client_certificate(authorities: _Authorities) -> None:
    ca_file = authorities.ca_file
    assert outcome_by_tls(authorities.mutual, ssl_ca_file=ca_file) == (Outcome.UNREACHABLE, 0)
    ours = {"ssl_certificate_file": authorities.certificate_file, "ssl_key_file": authorities.key_file}
    assert outcome_by_tls(authorities.mutual, ssl_ca_file=ca_file, **ours) == (Outcome.WON, 1)


def test_certificates_that_cannot_be_used_are_a_problem_of_the_configuration(authorities: _Authorities) -> None:
    for changes in (
        {"ssl_ca_file": "/nonexistent/ca.pem"},
        {"ssl_certificate_file": authorities.certificate_file, "ssl_key_file": authorities.ca_file},
    ):
        with pytest.raises(ConfigError, match=r"aggregators\.alpha\.ssl_ca_file"):
            Caller(aggregator("alpha", **changes), LIMIT, ManualClock(T0))


@pytest.mark.parametrize("url", ["https:///bid", "https://?bid", "https://[::1/bid", "https://ads.example:99999/bid"])
def test_address_that_cannot_be_used_is_a_problem_of_the_configuration(url: str) -> None:
    with pytest.raises(ConfigError, match=r"aggregators\.alpha\.url cannot be used"):
        Caller(aggregator("alpha", url), LIMIT, ManualClock(T0))
