"""The other side of the auctions: servers in processes of their own, on the other core."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import msgspec


@contextmanager
def process(*argv: str) -> Iterator[int]:
    """A server in a process of its own on the other core; yields its port."""
    with subprocess.Popen([sys.executable, "-m", *argv], stdout=subprocess.PIPE, text=True) as child:  # noqa: S603 - ours
        try:
            if (os.cpu_count() or 1) > 1:
                os.sched_setaffinity(child.pid, {1})
            line = child.stdout.readline() if child.stdout else ""
            if not line.startswith("READY "):
                raise SystemExit(f"{' '.join(argv)} did not start")
            yield int(line.split()[1])
        finally:
            child.terminate()


def aggregator(name: str, profile: str = "instant") -> tuple[str, ...]:
    """Command of a simulated OpenRTB aggregator."""
    return ("simulator.aggregators", "--name", name, "--dialect", "openrtb", "--seed", "7", "--profile", profile)


async def _behave(port: int, changes: dict[str, object]) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{port}/_control", data=msgspec.json.encode(changes)) as reply,
    ):
        reply.raise_for_status()


def behave(port: int, **changes: object) -> None:
    """Change the behaviour of a simulated aggregator."""
    asyncio.run(_behave(port, changes))
