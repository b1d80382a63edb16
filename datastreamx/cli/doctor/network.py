"""Whether an address answers: name, TCP, TLS, and a server's time."""

from __future__ import annotations

import email.utils
import http.client
import socket
import ssl
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from datastreamx.cli.doctor.report import Finding, clock_ahead_ms
from datastreamx.clock import Clock

TIMEOUT_S = 3.0

_PORTS = {"http": 80, "https": 443}


class Address(NamedTuple):
    """Where to connect, and whether a TLS handshake follows."""

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Unreachable:
    """At which step an address failed, why, and what to do."""

    detail: str
    remedy: str


def address_of(url: str) -> Address:
    """Host and port of an http or https URL."""
    parts = urlsplit(url)
    return Address(parts.hostname or "", parts.port or _PORTS[parts.scheme], tls=parts.scheme == "https")


def parse_bootstrap(bootstrap: str, default_port: int = 9092) -> list[Address]:
    """Addresses in `kafka.bootstrap`; IPv6 hosts are in brackets.

    Raises:
        ValueError: An entry is no `host:port`.
    """
    addresses = []
    for entry in filter(None, (part.strip() for part in bootstrap.split(","))):
        # librdkafka accepts a protocol in front.
        parts = urlsplit(f"//{entry.rpartition('://')[2]}")
        if not parts.hostname:
            raise ValueError(f"{entry!r} is no host:port")
        addresses.append(Address(parts.hostname, parts.port or default_port))
    return addresses


def connect(address: Address) -> Unreachable | None:
    """Resolve, connect and, for TLS, shake hands; `None` when all of it works."""
    try:
        socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Unreachable(f"the name {address.host} does not resolve ({reason})", "check the name and the DNS here")
    try:
        with socket.create_connection((address.host, address.port), TIMEOUT_S) as connection:
            if address.tls:
                with ssl.create_default_context().wrap_socket(connection, server_hostname=address.host):
                    pass
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or str(error)
        return Unreachable(f"TLS with {address} fails ({reason})", "check the certificate, its name and our CAs")
    except OSError as error:
        reason = error.strerror or str(error)
        return Unreachable(
            f"{address} does not accept connections ({reason})", "is it up, and do firewall and routes allow it?"
        )
    return None


def reach(what: str, address: Address) -> Finding:
    """Finding about one address."""
    trouble = connect(address)
    if trouble is None:
        return Finding(what=what, state="ok", detail=f"{address} answers{' with TLS' if address.tls else ''}")
    return Finding(what=what, state="fail", detail=trouble.detail, remedy=trouble.remedy, cause="unreachable")


def clock_ahead_of(url: str, clock: Clock) -> int | None:
    """How far our clock is ahead of a web server's, milliseconds; `None` if it does not tell."""
    address = address_of(url)
    kind = http.client.HTTPSConnection if address.tls else http.client.HTTPConnection
    connection = kind(address.host, address.port, timeout=TIMEOUT_S)
    try:
        connection.connect()
        sent_ms = clock.now_ms()
        connection.request("HEAD", "/")
        stamp = connection.getresponse().getheader("Date", "")
        received_ms = clock.now_ms()
        server_ms = int(email.utils.parsedate_to_datetime(stamp).timestamp() * 1000)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return clock_ahead_ms(sent_ms, received_ms, server_ms)
