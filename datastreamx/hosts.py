"""Which hosts and domains a list of names covers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache


def normal_host(name: str) -> str:
    """The one spelling of a DNS name that lists are compared in: lower case, no dot at the end."""
    return name.lower().removesuffix(".")


def host_allowed(host: str, patterns: tuple[str, ...]) -> bool:
    """Whether a list of hosts covers `host`. An empty list covers nothing.

    Args:
        host: A DNS name or an IP address, without a port.
        patterns: `cdn.example.com` covers that host alone; `*.example.com` covers every host below `example.com` but
            not `example.com` itself.
    """
    exact, parents = _read_patterns(patterns)
    name = normal_host(host)
    return name in exact or (bool(parents) and any(parent in parents for parent in _parents(name)))


def in_domains(domain: str, domains: Collection[str]) -> bool:
    """Whether `domain` is one of `domains` (each as `normal_host` spells it), or lies below one of them."""
    name = normal_host(domain)
    return name in domains or any(parent in domains for parent in _parents(name))


def _parents(name: str) -> Iterator[str]:
    """`b.example`, `example` for `a.b.example`."""
    while name:
        _, _, name = name.partition(".")
        if name:
            yield name


@lru_cache(maxsize=256)
def _read_patterns(patterns: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    # Lists come from the configuration, so there are few of them and they never change.
    names = [normal_host(pattern) for pattern in patterns]
    return (
        frozenset(name for name in names if not name.startswith("*.")),
        frozenset(name.removeprefix("*.") for name in names if name.startswith("*.")),
    )
