from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from operators.http.warm import WarmPool, can_preconnect

N = 4
BODY = b"{}"
KEEPALIVE_S = 60.0


class _Server:
    """A local aggregator that counts connections and requests, and holds replies back until it may answer."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.connections = 0
        self.requests = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._tls = tls
        self._open: set[asyncio.StreamWriter] = set()
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[_Server]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.url = f"{'https' if self._tls else 'http'}://localhost:{listener.sockets[0].getsockname()[1]}/bid"
        try:
            yield self
        finally:
            listener.close()
            await listener.wait_closed()
            self.hang_up()
            await _until(lambda: not self._open)

    def hang_up(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(BODY))
                self.requests += 1
                await self.may_answer.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
        finally:
            self._open.discard(writer)


async def _burst(session: aiohttp.ClientSession, server: _Server, calls: int) -> None:
    """Calls that are all under way at once: none can reuse the connection of another."""
    server.may_answer.clear()
    before = server.requests

    async def call() -> None:
        async with session.post(server.url, data=BODY) as reply:
            await reply.read()

    tasks = [asyncio.create_task(call()) for _ in range(calls)]
    await _until(lambda: server.requests == before + calls)
    server.may_answer.set()
    await asyncio.gather(*tasks)


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - facts about sockets, for which there is no event
        await asyncio.sleep(0.001)


Story = Callable[[_Server, aiohttp.TCPConnector, aiohttp.ClientSession], Awaitable[None]]


def _run(story: Story, *, tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None) -> None:
    async def play() -> None:
        async with _Server(tls[0] if tls else None).running() as server:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ssl=tls[1] if tls else True)
            async with aiohttp.ClientSession(connector=connector) as session:
                await story(server, connector, session)

    asyncio.run(play())


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    folder: Path = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))


def test_the_installed_aiohttp_can_be_warmed() -> None:
    """When this fails after an upgrade: look at `WarmPool` and the connector's private parts again."""

    async def play() -> None:
        connector = aiohttp.TCPConnector()
        assert can_preconnect(connector)
        await connector.close()

    asyncio.run(play())


def test_a_burst_after_warming_opens_no_connection() -> None:
    async def story(server: _Server, connector: aiohttp.TCPConnector, session: aiohttp.ClientSession) -> None:
        pool = WarmPool(connector, server.url, N)
        assert await pool.fill() == N
        await _until(lambda: server.connections == N)
        assert server.requests == 0
        await _burst(session, server, N)
        assert (server.connections, server.requests) == (N, N)

    _run(story)


def test_a_burst_after_warming_opens_no_tls_connection(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def story(server: _Server, connector: aiohttp.TCPConnector, session: aiohttp.ClientSession) -> None:
        assert await WarmPool(connector, server.url, N).fill() == N
        await _burst(session, server, N)
        assert server.connections == N

    _run(story, tls=tls)


def test_certificates_that_calls_bring_along_are_part_of_what_is_warmed(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async def play() -> None:
        async with _Server(tls[0]).running() as server, aiohttp.ClientSession() as session:
            assert isinstance(session.connector, aiohttp.TCPConnector)
            assert await WarmPool(session.connector, server.url, 1, ssl=tls[1]).fill() == 1
            async with session.post(server.url, data=BODY, ssl=tls[1]) as reply:
                await reply.read()
            assert server.connections == 1

    asyncio.run(play())


def test_without_warming_the_burst_opens_all_of_them() -> None:
    async def story(server: _Server, connector: aiohttp.TCPConnector, session: aiohttp.ClientSession) -> None:
        assert await WarmPool(connector, server.url, 0).fill() == 0
        await _burst(session, server, N)
        assert server.connections == N

    _run(story)


def test_only_what_is_missing_is_opened() -> None:
    async def story(server: _Server, connector: aiohttp.TCPConnector, session: aiohttp.ClientSession) -> None:
        await _burst(session, server, 3)
        pool = WarmPool(connector, server.url, N)
        assert pool.idle() == 3
        assert await pool.fill() == 1
        assert await pool.fill() == 0
        await _until(lambda: server.connections == N)

    _run(story)


def test_warming_takes_no_connection_from_a_call_that_begins_meanwhile() -> None:
    async def story(server: _Server, connector: aiohttp.TCPConnector, _: aiohttp.ClientSession) -> None:
        await WarmPool(connector, server.url, 1).fill()
        filling = asyncio.create_task(WarmPool(connector, server.url, N).fill())
        await asyncio.sleep(0)
        reused = asyncio.Event()
        trace = aiohttp.TraceConfig()

        async def note(*_args: object) -> None:
            reused.set()

        trace.on_connection_reuseconn.append(note)
        async with (
            aiohttp.ClientSession(connector=connector, connector_owner=False, trace_configs=[trace]) as caller,
            caller.post(server.url, data=BODY) as reply,
        ):
            await reply.read()
        assert reused.is_set()
        await filling

    _run(story)


def test_connections_that_the_server_closed_are_replaced() -> None:
    async def story(server: _Server, connector: aiohttp.TCPConnector, session: aiohttp.ClientSession) -> None:
        pool = WarmPool(connector, server.url, N)
        await pool.fill()
        await _until(lambda: server.connections == N)
        server.hang_up()
        await _until(lambda: pool.idle() == 0)
        assert await pool.fill() == N
        await _burst(session, server, N)
        assert server.connections == 2 * N

    _run(story)


def test_connections_that_would_not_live_until_the_next_check_are_replaced() -> None:
    async def story(server: _Server, connector: aiohttp.TCPConnector, session: aiohttp.ClientSession) -> None:
        pool = WarmPool(connector, server.url, N)
        await pool.fill()
        since_s = time.monotonic() - KEEPALIVE_S + 5
        for key, pooled in connector._conns.items():
            connector._conns[key] = deque((protocol, since_s) for protocol, _ in pooled)
        assert (pool.idle(), pool.idle(for_another_s=10)) == (N, 0)
        assert await pool.fill() == 0
        assert await pool.fill(for_another_s=10) == N
        assert session.connector is connector
        assert server.requests == 0

    _run(story)


def test_each_connection_opened_is_told() -> None:
    async def story(server: _Server, connector: aiohttp.TCPConnector, _: aiohttp.ClientSession) -> None:
        told: list[tuple[int, bool]] = []
        pool = WarmPool(connector, server.url, N, on_connect=lambda connect_us, tls: told.append((connect_us, tls)))
        await pool.fill()
        assert len(told) == N
        assert all(connect_us > 0 and tls is False for connect_us, tls in told)

    _run(story)


def test_tls_connections_are_told_as_such(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def story(server: _Server, connector: aiohttp.TCPConnector, _: aiohttp.ClientSession) -> None:
        told: list[bool] = []
        await WarmPool(connector, server.url, 1, on_connect=lambda _us, tls: told.append(tls)).fill()
        assert told == [True]

    _run(story, tls=tls)


def test_keeping_survives_an_aggregator_that_is_down_and_ends_when_cancelled() -> None:
    async def story(server: _Server, connector: aiohttp.TCPConnector, session: aiohttp.ClientSession) -> None:
        pool = WarmPool(connector, server.url, N)
        real, failures = connector._create_connection, 0

        async def refuse(*_: object) -> object:
            nonlocal failures
            failures += 1
            raise ConnectionRefusedError

        connector._create_connection = refuse  # type: ignore[assignment,method-assign]
        keeping = asyncio.create_task(pool.keep(check_interval_s=0.001))
        await _until(lambda: failures > 2 * N)
        connector._create_connection = real  # type: ignore[method-assign]
        await _until(lambda: pool.idle() == N)
        server.hang_up()
        await _until(lambda: server.connections == 2 * N and pool.idle() == N)
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping
        await _burst(session, server, N)
        assert server.connections == 2 * N

    _run(story)


def test_keeping_ends_with_its_connector() -> None:
    async def story(server: _Server, connector: aiohttp.TCPConnector, _: aiohttp.ClientSession) -> None:
        keeping = asyncio.create_task(WarmPool(connector, server.url, N).keep(check_interval_s=0.001))
        await _until(lambda: server.connections == N)
        await connector.close()
        await keeping

    _run(story)


def test_a_connection_that_is_open_after_its_connector_closed_is_closed_too() -> None:
    async def story(server: _Server, connector: aiohttp.TCPConnector, _: aiohttp.ClientSession) -> None:
        pool = WarmPool(connector, server.url, 1)
        real = connector._create_connection
        made = []

        async def close_meanwhile(*args: object) -> object:
            made.append(await real(*args))  # type: ignore[arg-type]
            await connector.close()
            return made[0]

        connector._create_connection = close_meanwhile  # type: ignore[assignment,method-assign]
        await pool.fill()
        assert not made[0].is_connected()

    _run(story)


def test_failure_to_open_all_is_told_and_keeps_what_was_opened() -> None:
    async def story(server: _Server, connector: aiohttp.TCPConnector, _: aiohttp.ClientSession) -> None:
        pool = WarmPool(connector, server.url, 3)
        real, calls = connector._create_connection, 0

        async def second_fails(*args: object) -> object:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise ConnectionResetError
            return await real(*args)  # type: ignore[arg-type]

        connector._create_connection = second_fails  # type: ignore[assignment,method-assign]
        with pytest.raises(ConnectionResetError):
            await pool.fill()
        assert pool.idle() == 2

    _run(story)


def test_with_an_unknown_aiohttp_nothing_is_warmed_and_calls_still_work() -> None:
    class _Other(aiohttp.TCPConnector):
        async def _create_connection(self, *everything: object) -> object:  # type: ignore[override]
            return await super()._create_connection(*everything)  # type: ignore[arg-type]

    async def play() -> None:
        async with _Server(None).running() as server:
            connector = _Other()
            async with aiohttp.ClientSession(connector=connector) as session:
                pool = WarmPool(connector, server.url, N)
                assert await pool.fill() == 0
                await pool.keep()
                await _burst(session, server, 2)
                assert server.connections == 2

    asyncio.run(play())
