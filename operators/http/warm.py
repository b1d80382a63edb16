"""Connections that are open before a break begins, so that its first calls do not pay for handshakes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from ssl import SSLContext

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from datastreamx.log import get_logger

_LOG = get_logger("warm")

_MAX_HANDSHAKES = 8
"""At a time: the handshake of TLS costs the event loop about a millisecond, and calls share that loop."""

_LONGEST_PAUSE_S = 30.0


def can_preconnect(connector: aiohttp.TCPConnector) -> bool:
    """Whether this connector has the private parts that `WarmPool` uses, in the form in which it uses them."""
    create = getattr(connector, "_create_connection", None)
    return (
        create is not None
        and [*inspect.signature(create).parameters] == ["req", "traces", "timeout"]
        and isinstance(getattr(connector, "_conns", None), dict)
        and hasattr(connector, "_keepalive_timeout")
        and {"loop", "ssl"} <= inspect.signature(aiohttp.ClientRequest).parameters.keys()
    )


class WarmPool:
    """Sees to it that `n` idle connections to one host are in the pool of a connector.

    No request is sent. aiohttp's public `connect` could open connections without one too, but it hands out an idle
    connection before it opens another, so the pool would have to be emptied first, and calls that begin meanwhile would
    pay for the very handshakes that this is to save; putting those back would also make them look fresh to the idle
    timeout though nothing has passed over them. A HEAD request has the same flaws, and counts as traffic with the
    aggregator. So three private parts are used, and `can_preconnect` tests for them: `_conns` is read to count,
    `_keepalive_timeout` is read, and `_create_connection`, which connectors override, is called. With an aiohttp that
    lacks them nothing is warmed, and calls open their connections themselves.

    Idle connections do not count towards the limit of a connector, so there may be up to `n` more than it says.

    Args:
        connector: That of the session that makes the calls. Its `keepalive_timeout` must be below the server's idle
            timeout, else a call sooner or later meets a connection that the server is just closing.
        url: Any URL of the host.
        n: Connections, 0 for none.
        ssl: The same as the calls' argument `ssl`, else they are other connections to aiohttp.
        connect_timeout_ms: Longest for one connection, name lookup included.
        on_connect: Is told about each connection opened: microseconds that it took, and whether TLS is included.
    """

    def __init__(  # noqa: PLR0913 - what a connection is made of
        self,
        connector: aiohttp.TCPConnector,
        url: str,
        n: int,
        *,
        ssl: SSLContext | aiohttp.Fingerprint | bool = True,
        connect_timeout_ms: int = 2_000,
        on_connect: Callable[[int, bool], None] | None = None,
    ) -> None:
        self._connector = connector
        self._url = URL(url)
        self._n = n if can_preconnect(connector) else 0
        self._ssl = ssl
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_ms / 1000)
        self._on_connect = on_connect
        self._handshakes = asyncio.Semaphore(_MAX_HANDSHAKES)
        if self._n < n:
            _LOG.warning("warm.unsupported", aiohttp=aiohttp.__version__, host=self._url.host)

    def idle(self, for_another_s: float = 0.0) -> int:
        """Connections in the pool that a call could use now, and still in `for_another_s` seconds."""
        pooled = self._connector._conns.get(self._request().connection_key, ())  # noqa: SLF001 - see the class
        keepalive_s = self._connector._keepalive_timeout  # noqa: SLF001 - see the class
        # The pool stamps its connections with this clock, whatever the rest of the process uses.
        now_s = time.monotonic()
        return sum(
            protocol.is_connected() and (keepalive_s is None or now_s + for_another_s - since_s <= keepalive_s)
            for protocol, since_s in pooled
        )

    async def fill(self, for_another_s: float = 0.0) -> int:
        """Open what is missing; returns how many were opened.

        Raises:
            OSError, aiohttp.ClientError: Not all could be opened. Those that could are in the pool.
        """
        missing = 0 if self._connector.closed or self._n == 0 else self._n - self.idle(for_another_s)
        if missing <= 0:
            return 0
        ends = await asyncio.gather(*(self._open() for _ in range(missing)), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return missing

    async def keep(self, check_interval_s: float = 1.0) -> None:
        """Keep the connections open until cancelled, or until the connector is closed. No failure ends it.

        Connections that would not live until the next check are replaced before they go. While the host cannot be
        reached the pauses grow up to half a minute, and are told once.
        """
        pause_s = check_interval_s
        while self._n > 0 and not self._connector.closed:
            try:
                await self.fill(for_another_s=check_interval_s)
            except (OSError, aiohttp.ClientError) as error:
                if pause_s == check_interval_s:
                    _LOG.warning("warm.failed", host=self._url.host, error=str(error) or type(error).__name__)
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
            else:
                pause_s = check_interval_s
            await asyncio.sleep(pause_s)

    def _request(self) -> aiohttp.ClientRequest:
        return aiohttp.ClientRequest("GET", self._url, loop=asyncio.get_running_loop(), ssl=self._ssl)

    async def _open(self) -> None:
        connector, request = self._connector, self._request()
        async with self._handshakes:
            started_ns = time.perf_counter_ns()
            async with asyncio.timeout(self._timeout.sock_connect):
                protocol = await connector._create_connection(request, [], self._timeout)  # noqa: SLF001 - see the class
            connect_us = (time.perf_counter_ns() - started_ns) // 1000
        if connector.closed:
            protocol.close()
            return
        Connection(connector, request.connection_key, protocol, asyncio.get_running_loop()).release()
        if self._on_connect is not None:
            self._on_connect(connect_us, request.is_ssl())
