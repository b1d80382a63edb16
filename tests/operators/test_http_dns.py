from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from datastreamx.clock import ManualClock
from operators.http.dns import CachingResolver, PublicResolver, is_public, public_socket, refuse_literal

HOST = "ads.example.com"
REFRESH_MS = 30_000
RETRY_MS = 5_000


def _answers(host: str, *addresses: str) -> list[ResolveResult]:
    return [
        ResolveResult(
            hostname=host,
            host=address,
            port=0,
            family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            proto=0,
            flags=socket.AI_NUMERICHOST,
        )
        for address in addresses
    ]


class _Upstream(AbstractResolver):
    """Answers what it is told to, in its own time; counts who asks."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses or ("192.0.2.1",)
        self.error: Exception | None = None
        self.free = asyncio.Event()
        self.free.set()
        self.asked: list[str] = []
        self.cancelled = 0
        self.closed = False

    async def resolve(self, host: str, *_: object, **__: object) -> list[ResolveResult]:
        self.asked.append(host)
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return _answers(host, *self.addresses)

    async def close(self) -> None:
        self.closed = True


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - facts about the unit under test, which raises no event for a test's sake
        await asyncio.sleep(0)


class _Bench:
    """A cache over an upstream, on a clock that stands still."""

    def __init__(self, *hosts: str, lookup_timeout_ms: int = 10, max_hosts: int = 256) -> None:
        self.clock = ManualClock()
        self.upstream = _Upstream()
        self.cache = CachingResolver(
            hosts or (HOST,),
            clock=self.clock,
            resolver=self.upstream,
            refresh_ms=REFRESH_MS,
            retry_ms=RETRY_MS,
            lookup_timeout_ms=lookup_timeout_ms,
            max_hosts=max_hosts,
        )

    async def addresses(self, host: str = HOST, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[str]:
        return [answer["host"] for answer in await self.cache.resolve(host, 443, family)]


def _run(story: Callable[[_Bench], Awaitable[None]], *hosts: str, max_hosts: int = 256) -> None:
    async def play() -> None:
        bench = _Bench(*hosts, max_hosts=max_hosts)
        try:
            await story(bench)
        finally:
            await bench.cache.close()

    asyncio.run(play())


def _without_waiting(resolving: Awaitable[list[ResolveResult]]) -> list[str]:
    """Run a coroutine that must not give up the loop even once; this is what `never on the path` means."""
    steps = resolving.__await__()
    try:
        next(steps)
    except StopIteration as end:
        return [answer["host"] for answer in end.value]
    raise AssertionError("the call had to wait")


def test_configured_hosts_are_resolved_before_they_are_needed() -> None:
    async def story(bench: _Bench) -> None:
        await bench.cache.refresh()
        assert sorted(bench.upstream.asked) == ["a.example", "b.example"]
        bench.upstream.free.clear()
        assert _without_waiting(bench.cache.resolve("a.example", 443)) == ["192.0.2.1"]
        assert _without_waiting(bench.cache.resolve("B.example", 443)) == ["192.0.2.1"]

    _run(story, "A.example", "b.example", "192.0.2.7", "::1")


def test_answers_carry_the_port_of_the_call() -> None:
    async def story(bench: _Bench) -> None:
        assert [answer["port"] for answer in await bench.cache.resolve(HOST, 8443)] == [8443]
        assert [answer["port"] for answer in await bench.cache.resolve(HOST, 443)] == [443]

    _run(story)


def test_a_fresh_answer_is_not_asked_for_again() -> None:
    async def story(bench: _Bench) -> None:
        await bench.cache.refresh()
        bench.clock.advance(REFRESH_MS - 1)
        await bench.cache.refresh()
        await bench.addresses()
        assert bench.upstream.asked == [HOST]
        assert bench.cache.age_ms(HOST) == REFRESH_MS - 1

    _run(story)


def test_an_old_answer_is_replaced_in_the_background() -> None:
    async def story(bench: _Bench) -> None:
        await bench.cache.refresh()
        bench.upstream.addresses = ("192.0.2.2",)
        bench.clock.advance(REFRESH_MS)
        await bench.cache.refresh()
        assert _without_waiting(bench.cache.resolve(HOST)) == ["192.0.2.2"]
        assert bench.cache.age_ms(HOST) == 0

    _run(story)


def test_a_call_that_finds_an_old_answer_takes_it_and_starts_the_refresh() -> None:
    async def story(bench: _Bench) -> None:
        await bench.cache.refresh()
        bench.upstream.addresses = ("192.0.2.2",)
        bench.clock.advance(10 * REFRESH_MS)
        assert _without_waiting(bench.cache.resolve(HOST)) == ["192.0.2.1"]
        await _until(lambda: bench.cache.age_ms(HOST) == 0)
        assert _without_waiting(bench.cache.resolve(HOST)) == ["192.0.2.2"]
        assert bench.upstream.asked == [HOST] * 2

    _run(story)


def test_a_slow_refresh_serves_the_old_answer_and_is_not_started_twice() -> None:
    async def story(bench: _Bench) -> None:
        await bench.cache.refresh()
        bench.upstream.free.clear()
        bench.upstream.addresses = ("192.0.2.2",)
        for _ in range(5):
            bench.clock.advance(REFRESH_MS)
            await bench.cache.refresh()
            assert _without_waiting(bench.cache.resolve(HOST)) == ["192.0.2.1"]
        assert bench.upstream.asked == [HOST] * 2
        bench.upstream.free.set()
        await bench.cache.refresh()
        assert await bench.addresses() == ["192.0.2.2"]

    _run(story)


@pytest.mark.parametrize(
    "error", [OSError("no server answers"), UnicodeError("label too long"), RuntimeError("c-ares")]
)
def test_a_failing_refresh_serves_the_old_answer_and_is_retried(error: Exception) -> None:
    async def story(bench: _Bench) -> None:
        await bench.cache.refresh()
        bench.upstream.error = error
        bench.clock.advance(REFRESH_MS)
        await bench.cache.refresh()
        assert _without_waiting(bench.cache.resolve(HOST)) == ["192.0.2.1"]
        assert bench.cache.age_ms(HOST) == REFRESH_MS
        bench.clock.advance(RETRY_MS - 1)
        await bench.cache.refresh()
        assert len(bench.upstream.asked) == 2
        bench.upstream.error, bench.upstream.addresses = None, ("192.0.2.2",)
        bench.clock.advance(1)
        await bench.cache.refresh()
        assert await bench.addresses() == ["192.0.2.2"]

    _run(story)


def test_an_empty_answer_does_not_erase_a_good_one() -> None:
    async def story(bench: _Bench) -> None:
        await bench.cache.refresh()
        bench.upstream.resolve = _nothing  # type: ignore[method-assign]
        bench.clock.advance(REFRESH_MS)
        await bench.cache.refresh()
        assert await bench.addresses() == ["192.0.2.1"]

    async def _nothing(*_: object, **__: object) -> list[ResolveResult]:
        return []

    _run(story)


def test_calls_for_an_unknown_host_share_one_lookup() -> None:
    async def story(bench: _Bench) -> None:
        bench.upstream.free.clear()
        calls = [asyncio.create_task(bench.addresses("new.example")) for _ in range(20)]
        await _until(lambda: bool(bench.upstream.asked))
        bench.upstream.free.set()
        assert await asyncio.gather(*calls) == [["192.0.2.1"]] * 20
        assert bench.upstream.asked == ["new.example"]

    _run(story)


def test_a_cancelled_call_takes_nobody_elses_lookup_along() -> None:
    async def story(bench: _Bench) -> None:
        bench.upstream.free.clear()
        first, second = (asyncio.create_task(bench.addresses()) for _ in range(2))
        await _until(lambda: bool(bench.upstream.asked))
        first.cancel()
        await asyncio.wait([first])
        bench.upstream.free.set()
        assert await second == ["192.0.2.1"]
        assert bench.upstream.cancelled == 0

    _run(story)


def test_a_slow_first_lookup_fails_in_bounded_time_and_still_teaches_its_answer() -> None:
    async def story(bench: _Bench) -> None:
        bench.upstream.free.clear()
        with pytest.raises(socket.gaierror, match="takes more than 10 ms"):
            await bench.addresses()
        bench.upstream.free.set()
        assert await bench.addresses() == ["192.0.2.1"]
        assert bench.upstream.asked == [HOST]

    _run(story)


def test_while_lookups_of_an_unknown_host_fail_calls_fail_at_once() -> None:
    async def story(bench: _Bench) -> None:
        bench.upstream.error = OSError("no such name")
        for _ in range(5):
            with pytest.raises(OSError, match=f"the lookup of {HOST} failed: no such name"):
                await bench.addresses()
        assert bench.upstream.asked == [HOST]
        bench.clock.advance(RETRY_MS)
        bench.upstream.error = None
        assert await bench.addresses() == ["192.0.2.1"]

    _run(story)


def test_addresses_take_turns_within_their_family() -> None:
    async def story(bench: _Bench) -> None:
        bench.upstream.addresses = ("2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2")
        assert [await bench.addresses() for _ in range(3)] == [
            ["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"],
            ["2001:db8::2", "2001:db8::1", "192.0.2.2", "192.0.2.1"],
            ["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"],
        ]

    _run(story)


def test_only_the_wanted_family_is_answered() -> None:
    async def story(bench: _Bench) -> None:
        bench.upstream.addresses = ("2001:db8::1", "192.0.2.1")
        assert await bench.addresses(family=socket.AF_INET) == ["192.0.2.1"]
        bench.upstream.addresses = ("192.0.2.1",)
        bench.clock.advance(REFRESH_MS)
        await bench.cache.refresh()
        with pytest.raises(OSError, match="AF_INET6"):
            await bench.addresses(family=socket.AF_INET6)

    _run(story)


def test_hosts_beyond_the_memory_are_served_but_not_remembered() -> None:
    async def story(bench: _Bench) -> None:
        for _ in range(2):
            assert await bench.addresses("other.example") == ["192.0.2.1"]
        assert bench.upstream.asked == ["other.example"] * 2
        assert bench.cache.age_ms("other.example") is None

    _run(story, HOST, max_hosts=1)


def test_keeping_resolves_now_and_again_until_cancelled() -> None:
    async def play() -> None:
        clock, upstream = ManualClock(), _Upstream()
        cache = CachingResolver([HOST], clock=clock, resolver=upstream, refresh_ms=2, retry_ms=2)
        keeping = asyncio.create_task(cache.keep())
        for times in (1, 2, 3):
            while len(upstream.asked) < times:
                clock.advance(2)
                await asyncio.sleep(0)
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping
        await cache.close()

    asyncio.run(play())


def test_closing_ends_lookups_and_closes_the_upstream() -> None:
    async def play() -> None:
        bench = _Bench()
        bench.upstream.free.clear()
        await bench.cache.refresh()
        await bench.cache.close()
        assert bench.upstream.cancelled == 1
        assert bench.upstream.closed

    asyncio.run(play())


def test_aiohttp_calls_through_the_cache_without_lookups_of_its_own() -> None:
    async def play() -> None:
        async def answer(request: web.Request) -> web.Response:
            return web.Response(text=request.host)

        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        bench = _Bench()
        bench.upstream.addresses = ("127.0.0.1",)
        connector = aiohttp.TCPConnector(resolver=bench.cache, use_dns_cache=False, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            for _ in range(3):
                async with session.get(f"http://{HOST}:{port}/") as reply:
                    assert await reply.text() == f"{HOST}:{port}"
        assert bench.upstream.asked == [HOST]
        await bench.cache.close()
        await runner.cleanup()

    asyncio.run(play())


PUBLIC = ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001:80b::200e"]
NOT_PUBLIC = [
    "0.0.0.0",  # noqa: S104 - nothing is bound here
    "10.1.2.3",
    "100.64.0.1",  # carrier-grade NAT
    "100.100.100.200",  # Alibaba's metadata service
    "127.0.0.1",
    "168.63.129.16",  # Azure's host service
    "169.254.169.254",  # metadata services
    "172.16.0.1",
    "192.0.0.192",  # Oracle's metadata service
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "233.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",  # AWS's metadata service
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1111%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)
    refuse_literal(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_lead_inwards_are_not_public(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(OSError, match="not an address of the public network"):
        refuse_literal(address)


@pytest.mark.parametrize("text", ["", "example.com", "8.8.8", "2130706433"])
def test_what_is_no_address_is_not_public(text: str) -> None:
    assert not is_public(text)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "8.8.2056", "0x8.8.8.8"])
def test_unusual_spellings_of_addresses_are_refused(host: str) -> None:
    with pytest.raises(OSError, match="unusual spelling"):
        refuse_literal(host)


@pytest.mark.parametrize("host", ["example.com", "1e100.net", "8.8.8.8.example", "localhost", "xn--bcher-kva.example"])
def test_names_are_left_to_the_resolver(host: str) -> None:
    refuse_literal(host)


def test_brackets_around_an_address_do_not_hide_it() -> None:
    refuse_literal("[2606:4700::1111]")
    with pytest.raises(OSError, match="public network"):
        refuse_literal("[::1]")


def test_the_public_resolver_passes_public_answers_on() -> None:
    async def play() -> None:
        upstream = _Upstream("8.8.8.8", "2606:4700::1111")
        resolver = PublicResolver(upstream)
        assert [answer["host"] for answer in await resolver.resolve(HOST, 443)] == ["8.8.8.8", "2606:4700::1111"]
        await resolver.close()
        assert upstream.closed

    asyncio.run(play())


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_one_bad_address_among_good_ones_refuses_the_name(address: str) -> None:
    async def play() -> None:
        resolver = PublicResolver(_Upstream("8.8.8.8", address, "8.8.4.4"))
        with pytest.raises(OSError, match=f"{HOST} resolves to"):
            await resolver.resolve(HOST, 443)

    asyncio.run(play())


def test_a_name_that_is_rebound_to_an_inner_address_is_refused_from_then_on() -> None:
    async def play() -> None:
        upstream = _Upstream("8.8.8.8")
        clock = ManualClock()
        resolver = PublicResolver(CachingResolver([], clock=clock, resolver=upstream))
        await resolver.resolve(HOST, 443)
        upstream.addresses = ("169.254.169.254",)
        # Within the memory of the cache the checked address is used, not a new one.
        assert [answer["host"] for answer in await resolver.resolve(HOST, 443)] == ["8.8.8.8"]
        clock.advance(REFRESH_MS)
        await resolver.resolve(HOST, 443)
        await _until(lambda: len(upstream.asked) == 2)
        with pytest.raises(OSError, match=r"resolves to 169\.254\.169\.254"):
            await resolver.resolve(HOST, 443)
        await resolver.close()

    asyncio.run(play())


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "rebound.example"])
def test_no_connection_is_opened_to_an_inner_address(host: str) -> None:
    async def play() -> None:
        accepted = 0

        def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal accepted
            accepted += 1
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        # The resolver lets everything pass, as if the check were forgotten; the socket is the last one to look.
        connector = aiohttp.TCPConnector(resolver=_Upstream("127.0.0.1"), socket_factory=public_socket)
        async with aiohttp.ClientSession(connector=connector) as session:
            with pytest.raises(aiohttp.ClientConnectorError, match=r"refused: .* is not an address of the public"):
                await session.get(f"http://{host}:{port}/")
        assert accepted == 0
        server.close()
        await server.wait_closed()

    asyncio.run(play())


def test_a_public_address_gets_its_socket() -> None:
    with public_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("8.8.8.8", 443))) as made:
        assert made.family == socket.AF_INET
        assert made.type == socket.SOCK_STREAM
