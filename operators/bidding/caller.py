"""HTTP with one aggregator: one request, its phases timed, its reply bounded."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
import zlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from aggregators.contract import HttpCall, HttpReply, ReplyError
from datastreamx import metrics
from datastreamx.clock import Clock
from datastreamx.config import AggregatorConfig
from datastreamx.errors import ConfigError
from datastreamx.model.auction import Outcome
from operators.http.dns import CachingResolver
from operators.http.warm import WarmPool

IDLE_CONNECTION_S: Final = 45
"""Connections idle for longer are closed by us, because servers begin to close theirs at about 60 s, and a request on
a connection that is just being closed is lost."""

_ENCODINGS: Final = "gzip, deflate"
_GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32


class Phases:
    """When what happened in one call, nanoseconds of the monotonic clock; differences in microseconds.

    Attributes:
        sent_ns: The call began.
        connection_reused: No connection had to be opened.
    """

    __slots__ = ("_connect_ns", "_dns_ns", "connect_us", "connection_reused", "dns_us", "first_byte_us", "sent_ns")

    def __init__(self) -> None:
        self.sent_ns = time.perf_counter_ns()
        self.connection_reused = True
        self.dns_us: int | None = None
        self.connect_us: int | None = None
        self.first_byte_us: int | None = None
        self._connect_ns = self._dns_ns = 0

    def connecting(self) -> None:
        """A connection is being opened."""
        self.connection_reused = False
        self._connect_ns = time.perf_counter_ns()

    def connected(self) -> None:
        """It is open, TLS included; the time for names does not count."""
        self.connect_us = (time.perf_counter_ns() - self._connect_ns) // 1000 - (self.dns_us or 0)

    def resolving(self) -> None:
        """The host's name is being resolved."""
        self._dns_ns = time.perf_counter_ns()

    def resolved(self) -> None:
        """It is resolved."""
        self.dns_us = (time.perf_counter_ns() - self._dns_ns) // 1000

    def head_received(self) -> None:
        """Status and headers of the reply are there."""
        self.first_byte_us = self.elapsed_us()

    def elapsed_us(self) -> int:
        """Since the call began."""
        return (time.perf_counter_ns() - self.sent_ns) // 1000


class Caller:
    """Client of one aggregator, for one event loop: that of its first call.

    Args:
        config: Address, headers and number of warm connections.
        max_response_bytes: A larger body, decoded, ends the call.
        clock: For the age of resolved names.
        resolver: Who is asked for addresses; owned from now on, and closed with this. Unset: the system, on threads.

    Raises:
        ConfigError: The address or the certificates cannot be used.
    """

    def __init__(
        self,
        config: AggregatorConfig,
        max_response_bytes: int,
        clock: Clock,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._url = config.url
        self._target = _target(config)
        # In the spelling of the adapters', so that what is configured replaces theirs instead of joining it.
        self._headers = {name.lower(): secret.reveal() for name, secret in config.headers.items()}
        self._headers["accept-encoding"] = _ENCODINGS
        self._warm_connections = config.warm_connections
        self._max_response_bytes = max_response_bytes
        self._clock = clock
        self._resolver = resolver
        self._opened = metrics.AGGREGATOR_CONNECTIONS.labels(config.name)
        self._tls = _tls_context(config)
        self._network: _Network | None = None

    async def keep_warm(self, on_connect: Callable[[int, bool], None]) -> None:
        """Keep the host's address known and connections open; runs until it is cancelled.

        Args:
            on_connect: Told of every connection opened: microseconds, and whether that includes TLS.
        """
        network = self._network or self._open()

        def opened(connect_us: int, tls: bool) -> None:  # noqa: FBT001 - what WarmPool tells
            self._opened.inc()
            on_connect(connect_us, tls)

        pool = WarmPool(network.connector, self._url, self._warm_connections, on_connect=opened)
        await asyncio.gather(network.resolver.keep(), pool.keep())

    async def exchange(self, call: HttpCall, phases: Phases) -> HttpReply:
        """Send a request and read the reply; no time limit of its own.

        A request that meets a connection which the server has just closed is sent once more, on another one: it carries
        the same auction id, so the aggregator cannot take it for another.

        Raises:
            ReplyError: `OVERSIZE`, or an encoding that was not asked for.
            aiohttp.ClientError: No connection, or it broke.
            OSError: Likewise.
        """
        _CALL.set(phases)
        try:
            return await self._exchange(call, phases)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not phases.connection_reused or phases.first_byte_us is not None:
                raise
            return await self._exchange(call, phases)
        finally:
            if phases.connect_us is not None:
                self._opened.inc()

    async def close(self) -> None:
        """Close all connections."""
        if self._network is not None:
            await self._network.session.close()
            await self._network.resolver.close()
            self._network = None

    def _open(self) -> _Network:
        # No connection limit here: the bulkhead in front is the limit, and a call that waits for a connection would
        # wait unseen. No timeout either: each call has its own timer, and two would race. No decoding: aiohttp decodes
        # a whole piece of input at a time, and 64 KiB of gzip can be 64 MiB.
        resolver = _TimedResolver([URL(self._url).raw_host or ""], clock=self._clock, resolver=self._resolver)
        connector = _TimedConnector(
            limit=0,
            resolver=resolver,
            use_dns_cache=False,
            keepalive_timeout=IDLE_CONNECTION_S,
            ssl=self._tls if self._tls is not None else True,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        # Private, but without it aiohttp repeats every GET by itself, also one whose connection was new: together with
        # `exchange` an aggregator that hangs up would be asked up to four times.
        session._retry_connection = False  # noqa: SLF001 - see above
        self._network = _Network(resolver, connector, session)
        return self._network

    async def _exchange(self, call: HttpCall, phases: Phases) -> HttpReply:
        session = (self._network or self._open()).session
        async with session.request(
            call.method,
            self._target if call.url == self._url else URL(call.url, encoded=True),
            data=call.body,
            headers={**call.headers, **self._headers},
            # A redirect would let a reply choose the host that is called next.
            allow_redirects=False,
        ) as response:
            phases.head_received()
            body = await self._body(response)
            return HttpReply(status=response.status, headers=response.headers, body=body)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding not in {"identity", "gzip", "deflate"}:
            raise ReplyError(Outcome.INVALID_RESPONSE, f"content encoding {encoding[:40]!r} was not asked for")
        limit = self._max_response_bytes
        decoder = None if encoding == "identity" else zlib.decompressobj(_GZIP_OR_ZLIB)
        received = 0
        body = bytearray()
        while part := await response.content.readany():
            received += len(part)
            try:
                # One byte more than allowed is enough to know.
                body += part if decoder is None else decoder.decompress(part, limit + 1 - len(body))
            except zlib.error as error:
                raise ReplyError(Outcome.INVALID_RESPONSE, f"the body is no {encoding}: {error}") from None
            if len(body) > limit or received > limit:
                raise ReplyError(Outcome.OVERSIZE, f"more than {limit} bytes")
        if decoder is not None and received and not decoder.eof:
            raise ReplyError(Outcome.INVALID_RESPONSE, f"the {encoding} body ends too early")
        return bytes(body)


class _Network(NamedTuple):
    resolver: CachingResolver
    connector: aiohttp.TCPConnector
    session: aiohttp.ClientSession


def _target(config: AggregatorConfig) -> URL:
    """The configured address. One without a host would fail at every call, as the aggregator's fault."""
    problem = "it names no host"
    try:
        url = URL(config.url, encoded=True)
        if url.raw_host:
            return url
    except ValueError as error:
        problem = str(error)
    path = f"aggregators.{config.name}"
    raise ConfigError(path, [f"{path}.url cannot be used: {problem}"])


def _tls_context(config: AggregatorConfig) -> ssl.SSLContext | None:
    """Certificates of this aggregator, `None` for the system's and no client certificate."""
    if config.ssl_ca_file is None and config.ssl_certificate_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=config.ssl_ca_file)
        if config.ssl_certificate_file is not None:
            # An encrypted key is refused; without a password OpenSSL would ask for one on the terminal, and wait.
            context.load_cert_chain(config.ssl_certificate_file, config.ssl_key_file, password="")
    except OSError as error:  # SSLError is one
        path = f"aggregators.{config.name}"
        problem = f"{path}.ssl_ca_file, ssl_certificate_file or ssl_key_file cannot be used: {error}"
        raise ConfigError(path, [problem]) from None
    return context


_CALL: ContextVar[Phases | None] = ContextVar("phases of the call that this task makes", default=None)


class _TimedConnector(aiohttp.TCPConnector):
    """Tells a call when it has to open a connection.

    aiohttp's own tracing would do, and costs a tenth of a call: a dozen coroutines for each, to tell what happens at
    one call in a thousand. This method is the one that connectors override.
    """

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - aiohttp's
        phases = _CALL.get()
        if phases is None:
            return await super()._create_connection(req, traces, timeout)
        phases.connecting()
        connection = await super()._create_connection(req, traces, timeout)
        phases.connected()
        return connection


class _TimedResolver(CachingResolver):
    """Tells a call how long the name took."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        phases = _CALL.get()
        if phases is None:
            return await super().resolve(host, port, family)
        phases.resolving()
        try:
            return await super().resolve(host, port, family)
        finally:
            phases.resolved()
