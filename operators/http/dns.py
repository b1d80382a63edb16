"""Names to addresses: for calls without a lookup on their path, for notices only where the public network is.

Lookups use the system's resolver on threads (aiohttp's `ThreadedResolver`). aiodns would keep them off threads, but it
brings a C library of its own and goes past the system's name services; with one background lookup per host and half
minute there is nothing to win. What threads cannot do is give up, so there is never more than one per host.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from datastreamx.clock import Clock
from datastreamx.log import get_logger

_LOG = get_logger("dns")

_ABANDON_S = 60.0
"""After this a lookup is cancelled. Far longer than the system's resolver takes to give up: while that is busy, another
lookup of the same name would only take another thread."""


@dataclass(slots=True)
class _Host:
    """What is known about one host."""

    answers: tuple[ResolveResult, ...] = ()
    answered_s: float = 0.0
    error: Exception | None = None
    failed_s: float = 0.0
    lookup: asyncio.Task[None] | None = None
    turn: int = 0


class CachingResolver(AbstractResolver):
    """A resolver that answers from memory.

    The configured hosts are resolved before they are needed and again before the answer gets old. The system's
    resolver does not tell how long an answer is valid, so every answer is refreshed after `refresh_ms`. While a refresh
    is slow or fails, the old answer is served, however old it is: an address that has moved shows as failing calls,
    which the throttle handles, whereas no address is a certain failure. A host that was not configured is looked up at
    its first call and known from then on.

    Give it to a `TCPConnector` with `use_dns_cache=False`, whose own cache would look up on the path of a call every
    ten seconds. Make it on the event loop that uses it, run `keep` as a task there, and `close` it at the end.

    Args:
        hosts: To be resolved ahead of need; literal addresses among them are left out.
        clock: For the age of answers.
        resolver: Who is asked; owned from now on, and closed with this. Unset: the system, on threads.
        refresh_ms: Age at which an answer is asked for again.
        retry_ms: Between two lookups of a host while they fail.
        lookup_timeout_ms: Longest that anybody waits for a lookup. One that is late still teaches its answer.
        max_hosts: Hosts that are remembered; others are looked up each time, so that odd names cannot fill the memory.
    """

    def __init__(  # noqa: PLR0913 - knobs of a cache, all with defaults
        self,
        hosts: Iterable[str],
        *,
        clock: Clock,
        resolver: AbstractResolver | None = None,
        refresh_ms: int = 30_000,
        retry_ms: int = 5_000,
        lookup_timeout_ms: int = 2_000,
        max_hosts: int = 256,
    ) -> None:
        self._clock = clock
        self._resolver = resolver if resolver is not None else aiohttp.ThreadedResolver()
        self._refresh_s = refresh_ms / 1000
        self._retry_s = retry_ms / 1000
        self._lookup_timeout_s = lookup_timeout_ms / 1000
        self._max_hosts = max_hosts
        self._hosts = {host.lower(): _Host() for host in hosts if _literal(host) is None}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses of `host`, from memory if it is known; each call begins with another one, within its family.

        Raises:
            OSError: The host is not known, and its lookup failed or is slow; or it has no address of this family.
        """
        name = host.lower()
        known = self._hosts.get(name)
        if known is None:
            known = _Host()
            if len(self._hosts) < self._max_hosts:
                self._hosts[name] = known
        if self._is_due(known):
            self._look_up(name, known)
        if not known.answers:
            await self._first_answer(name, known)
        return _in_turn(name, known, port, family)

    async def refresh(self) -> None:
        """Ask again for every host whose answer is due; returns when all have answered or are late."""
        for name, known in self._hosts.items():
            if self._is_due(known):
                self._look_up(name, known)
        lookups = [known.lookup for known in self._hosts.values() if known.lookup is not None]
        if lookups:
            await asyncio.wait(lookups, timeout=self._lookup_timeout_s)

    async def keep(self) -> None:
        """Resolve all hosts now and keep them fresh, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(min(self._refresh_s, self._retry_s) / 2)

    def age_ms(self, host: str) -> int | None:
        """Age of the answer that is served for `host`; None while there is none."""
        known = self._hosts.get(host.lower())
        if known is None or not known.answers:
            return None
        return round((self._clock.monotonic_s() - known.answered_s) * 1000)

    async def close(self) -> None:
        """End all lookups and close the resolver that is asked."""
        lookups = [known.lookup for known in self._hosts.values() if known.lookup is not None]
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)
        await self._resolver.close()

    def _is_due(self, known: _Host) -> bool:
        if known.lookup is not None:
            return False
        now_s = self._clock.monotonic_s()
        if known.error is not None:
            return now_s - known.failed_s >= self._retry_s
        return not known.answers or now_s - known.answered_s >= self._refresh_s

    def _look_up(self, name: str, known: _Host) -> None:
        known.lookup = asyncio.create_task(self._ask(name, known), name=f"dns {name}")

    async def _ask(self, name: str, known: _Host) -> None:
        answers: list[ResolveResult] = []
        error: Exception | None = None
        try:
            async with asyncio.timeout(_ABANDON_S):
                answers = await self._resolver.resolve(name, 0, socket.AF_UNSPEC)
        except Exception as raised:  # noqa: BLE001 - whatever a resolver raises, this name has no new answer
            error = raised
        finally:
            known.lookup = None
        now_s = self._clock.monotonic_s()
        if error is None and not answers:
            error = socket.gaierror(socket.EAI_NONAME, "the answer holds no address")
        if error is not None:
            if known.error is None:
                _LOG.warning("dns.failed", host=name, error=str(error), stale=bool(known.answers))
            known.error, known.failed_s = error, now_s
            return
        if known.error is not None:
            _LOG.info("dns.recovered", host=name)
        known.answers, known.answered_s, known.error = tuple(answers), now_s, None

    async def _first_answer(self, name: str, known: _Host) -> None:
        if known.lookup is not None:
            # Waited for, not awaited: whoever is cancelled here takes no one else's lookup along.
            await asyncio.wait([known.lookup], timeout=self._lookup_timeout_s)
        if known.answers:
            return
        if known.error is not None:
            raise socket.gaierror(socket.EAI_AGAIN, f"the lookup of {name} failed: {known.error}") from known.error
        waited_ms = round(self._lookup_timeout_s * 1000)
        raise socket.gaierror(socket.EAI_AGAIN, f"the lookup of {name} takes more than {waited_ms} ms")


def _in_turn(name: str, known: _Host, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    """The answers with `port`; families stay in the system's order, the addresses of each take turns at its head."""
    by_family: dict[int, list[ResolveResult]] = {}
    for answer in known.answers:
        if family in (socket.AF_UNSPEC, answer["family"]):
            by_family.setdefault(answer["family"], []).append({**answer, "port": port})
    if not by_family:
        raise socket.gaierror(socket.EAI_NONAME, f"{name} has no address of the family {family.name}")
    turn = known.turn
    known.turn += 1
    turned = []
    for answers in by_family.values():
        start = turn % len(answers)
        turned += answers[start:] + answers[:start]
    return turned


_IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that IANA has given out as global unicast. What embeds an IPv4 address lies outside, but for two nets below:
mapped ::ffff:0:0/96, NAT64 64:ff9b::/96 and 64:ff9b:1::/48, compatible ::/96."""

_NOT_PUBLIC: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments; two clouds keep services here
    ipaddress.IPv4Network("192.88.99.0/24"),  # relays of 6to4
    ipaddress.IPv4Network("168.63.129.16/32"),  # looks public; inside Azure it is the host's management service
    ipaddress.IPv6Network("2001::/32"),  # Teredo: embeds an IPv4 address
    ipaddress.IPv6Network("2002::/16"),  # 6to4: likewise
    ipaddress.IPv6Network("3fff::/20"),  # documentation (RFC 9637), newer than the table of Python 3.11
)


def is_public(address: str) -> bool:
    """Whether `address` is a literal address of one host in the public network.

    False for loopback, private, link-local, multicast, carrier-grade NAT, reserved and documentation addresses, for
    every IPv6 form that embeds an IPv4 address (mapped, NAT64, 6to4, Teredo: they lead to addresses that are not
    looked at here), for addresses with a zone, and for what is no address.
    """
    literal = _literal(address)
    if literal is None or not literal.is_global or literal.is_multicast:
        return False
    if isinstance(literal, ipaddress.IPv6Address) and (literal.scope_id is not None or literal not in _IPV6_UNICAST):
        return False
    return not any(literal in network for network in _NOT_PUBLIC)


def refuse_literal(host: str) -> None:
    """Refuse the host of a URL if it is an address that no notice may go to.

    Needed beside `PublicResolver`: aiohttp resolves names only, so a resolver never sees a literal address.

    Args:
        host: As in `yarl.URL.raw_host`; brackets around IPv6 are allowed.

    Raises:
        OSError: It is an address that is not public, or an old way to write one (`127.1`, `0x7f000001`), which the
            operating system understands and an address check does not.
    """
    bare = host.removeprefix("[").removesuffix("]")
    if _literal(bare) is not None:
        if not is_public(bare):
            raise _refusal(f"{host} is not an address of the public network")
        return
    try:
        socket.inet_aton(bare)
    except OSError:
        return
    raise _refusal(f"{host} is an unusual spelling of an address")


def public_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A `socket_factory` for `TCPConnector`: the last look, at the very address that is about to be connected to.

    It sees resolved names, literal addresses and every spelling of them alike.

    Raises:
        OSError: The address is not public.
    """
    family, kind, protocol, _, endpoint = address
    if not is_public(str(endpoint[0])):
        raise _refusal(f"{endpoint[0]} is not an address of the public network")
    return socket.socket(family, kind, protocol)


class PublicResolver(AbstractResolver):
    """Refuses names that lead anywhere but into the public network, as a notice's URL comes from an aggregator's reply.

    One bad address among good ones is enough: happy eyeballs may take any of them. The connection goes to the very
    addresses that were looked at here, and every new answer is looked at again, so a name that is rebound between
    check and use gains nothing. On networks that reach IPv4 hosts by DNS64 all of their names are refused.

    Args:
        resolver: Who is asked; owned from now on, and closed with this.
    """

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses of `host`, all of them public.

        Raises:
            OSError: At least one is not, or the lookup failed.
        """
        answers = await self._resolver.resolve(host, port, family)
        for answer in answers:
            if not is_public(answer["host"]):
                raise _refusal(f"{host} resolves to {answer['host']}, which is not an address of the public network")
        return answers

    async def close(self) -> None:
        """Close the resolver that is asked."""
        await self._resolver.close()


def _literal(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


def _refusal(message: str) -> OSError:
    return OSError(errno.EACCES, f"refused: {message}")
