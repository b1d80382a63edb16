"""Sends notices by HTTP: one GET per attempt, and an honest answer to whether the receiver may have accepted it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
from collections.abc import Sequence

import aiohttp
from yarl import URL

from datastreamx.config import AggregatorConfig, NoticesConfig
from datastreamx.errors import ConfigError
from operators.http.dns import PublicResolver, public_socket, refuse_literal
from operators.notices.notice import Notice
from operators.notices.outbox import Reply, Result

BODY_BYTES_MAX = 4_096
"""Of a reply; what it says does not matter, only reading it to its end keeps the connection."""
KEEPALIVE_S = 4.0
"""Shorter than common servers keep an idle connection. If it is closed while a notice is on its way, nobody can tell
whether it was heard."""
DNS_CACHE_S = 30

_HEADERS = {"user-agent": "DatastreamX", "accept": "*/*", "accept-encoding": "identity"}
_TOO_MANY_REQUESTS = 429
# What a gateway answers in place of a receiver that it may have reached: the answer was broken or did not come.
_UNHEARD_BY_GATEWAY = frozenset({502, 504, 520, 524})
_STOPPING = Reply(Result.UNSENT)
_DETAIL_CHARS_MAX = 200


class _BrokenOffError(aiohttp.ClientError):
    """The connection ended after the request may have been written."""


async def _never_repeat(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keeps aiohttp from sending again by itself: it repeats a GET when its connection breaks."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _BrokenOffError(str(error) or type(error).__name__) from error


class HttpSender:
    """Sends to the hosts of the configured aggregators.

    Each aggregator has an equal share of `max_in_flight`, so that one which does not answer holds up only itself. Half
    the time limit is for the connection: an attempt that ends while there is none was surely not heard.

    All but `stop` belongs to one event loop.

    Raises on construction:
        ConfigError: Certificates that are configured cannot be read.
    """

    def __init__(self, aggregators: Sequence[AggregatorConfig], config: NoticesConfig) -> None:
        told = [one for one in aggregators if one.notices]
        share = max(1, config.max_in_flight // max(1, len(told)))
        self._places = {one.name: asyncio.Semaphore(share) for one in told}
        self._public = {one.name: one.notice_network == "public" for one in told}
        self._tls = {one.name: _trust(one) for one in told}
        timeout_s = config.timeout_ms / 1000
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=timeout_s / 2, sock_connect=timeout_s / 2)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._stopping = False

    async def send(self, notice: Notice) -> Reply:
        """See `operators.notices.step.NoticeSender`."""
        async with self._places[notice.aggregator]:
            if self._stopping:
                return _STOPPING
            return await self._ask(notice.aggregator, URL(notice.url, encoded=True))

    def stop(self) -> None:
        """See `operators.notices.step.NoticeSender`."""
        self._stopping = True

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()

    async def _ask(self, aggregator: str, url: URL) -> Reply:
        is_public = self._public[aggregator]
        try:
            if is_public:
                refuse_literal(url.raw_host or "")
            async with self._session(is_public=is_public).get(
                url, ssl=self._tls[aggregator], allow_redirects=False, timeout=self._timeout, headers=_HEADERS
            ) as response:
                # The status has settled it; a body that stalls or breaks costs the connection and nothing else.
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    await response.content.read(BODY_BYTES_MAX)
                return _reply_to(response.status)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            refused = isinstance(error, aiohttp.ClientConnectorError) and _is_refusal(error.os_error)
            return _reply(Result.FORBIDDEN if refused else Result.FAILED, error)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            return _reply(Result.FORBIDDEN, error)
        except TimeoutError:
            return Reply(Result.UNCONFIRMED, f"sent, and no answer within {self._timeout.total} s")
        except OSError as error:
            return _reply(Result.FORBIDDEN if _is_refusal(error) else Result.UNCONFIRMED, error)
        except (aiohttp.ClientError, ValueError) as error:
            return _reply(Result.UNCONFIRMED, error)

    def _session(self, *, is_public: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(is_public)
        if session is None:
            connector = aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=KEEPALIVE_S,
                ttl_dns_cache=DNS_CACHE_S,
                resolver=PublicResolver(aiohttp.ThreadedResolver()) if is_public else None,
                socket_factory=public_socket if is_public else None,
            )
            session = self._sessions[is_public] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=(_never_repeat,),
                auto_decompress=False,
                trust_env=False,
            )
        return session


def _trust(aggregator: AggregatorConfig) -> ssl.SSLContext | bool:
    """Certificates to trust. The client certificate is for the bidding host and shown to no other."""
    if aggregator.ssl_ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=aggregator.ssl_ca_file)
    except OSError as error:  # SSLError is one
        path = f"aggregators.{aggregator.name}.ssl_ca_file"
        raise ConfigError(path, [f"{aggregator.ssl_ca_file} cannot be used: {error}"]) from None


def _reply_to(status: int) -> Reply:
    detail = f"HTTP status {status}"
    if 200 <= status < 300:  # noqa: PLR2004  what a status means
        return Reply(Result.DELIVERED, detail)
    if status in _UNHEARD_BY_GATEWAY:
        return Reply(Result.UNCONFIRMED, f"{detail}, a gateway's: whether the receiver has heard it is unknown")
    if status == _TOO_MANY_REQUESTS or status >= 500:  # noqa: PLR2004  likewise
        return Reply(Result.FAILED, detail)
    return Reply(Result.REFUSED, detail)


def _reply(result: Result, error: Exception) -> Reply:
    return Reply(result, f"{type(error).__name__}: {error}"[:_DETAIL_CHARS_MAX])


def _is_refusal(error: BaseException | None) -> bool:
    """Whether `operators.http.dns` has refused an address."""
    return isinstance(error, OSError) and error.errno == errno.EACCES and "refused:" in str(error)
