"""What the measurements of the auctions share: a flow to run them in, and the other side to run them against."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

import aiohttp
import bytewax.operators as op
import msgspec
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from datastreamx.acks import AckedOffsets
from datastreamx.clock import SystemClock
from datastreamx.config import Config, parse_config
from datastreamx.model.auction import DecidedAuction, Decision, Opportunity
from flows.ports.ads import live_bidding_ports
from operators.bidding import bidding

KEYS = 16

Item = tuple[str, list[Opportunity]]


# The flow --------------------------------------------------------------------------------------------------------


class EmptyLog:
    """A decision log of a first start."""

    def read_back(self, _partition: int, _from_offset: int | None) -> list[DecidedAuction]:
        """Nothing."""
        return []


Pace = Callable[[], float]
"""Seconds until the next batch may come; 0 or less: now."""


def steadily(interval_s: float) -> Pace:
    """A batch every `interval_s` seconds, whatever has become of the ones before; the first after a second.

    A flow that starts has connections by the time at which its source has found its place.
    """
    due_s: float | None = None

    def wait_s() -> float:
        nonlocal due_s
        now_s = time.monotonic()
        due_s = now_s + 1 if due_s is None else due_s
        left_s = due_s - now_s
        if left_s <= 0:
            due_s += interval_s
        return left_s

    return wait_s


class _Feed(StatelessSourcePartition[Item]):
    def __init__(self, batches: Iterator[list[Item]], pace: Pace, drained: Callable[[], bool]) -> None:
        self._batches = batches
        self._pace = pace
        self._drained = drained
        self._wait_s = 0.0

    def next_batch(self) -> list[Item]:
        self._wait_s = self._pace()
        if self._wait_s > 0:
            return []
        batch = next(self._batches, None)
        if batch is None:
            if self._drained():
                raise StopIteration
            self._wait_s = 0.001
        return batch or []

    def next_awake(self) -> datetime | None:
        return datetime.now(UTC) + timedelta(seconds=self._wait_s) if self._wait_s > 0 else None


class Feed(DynamicSource[Item]):
    """Batches of opportunities at a pace; ends as the live source does, when all is decided."""

    def __init__(self, batches: Iterator[list[Item]], pace: Pace, drained: Callable[[], bool]) -> None:
        self._batches, self._pace, self._drained = batches, pace, drained

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Feed:  # noqa: ARG002 - one worker
        """The one partition."""
        return _Feed(self._batches, self._pace, self._drained)


class _Till(StatelessSinkPartition[tuple[str, Decision]]):
    def __init__(self, take: Callable[[Decision], None]) -> None:
        self._take = take

    def write_batch(self, items: list[tuple[str, Decision]]) -> None:
        for _, decision in items:
            self._take(decision)


class Till(DynamicSink[tuple[str, Decision]]):
    """Hands every decision to a function."""

    def __init__(self, take: Callable[[Decision], None]) -> None:
        self._take = take

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Till:  # noqa: ARG002 - one worker
        """The one partition."""
        return _Till(self._take)


def run(config: Config, batches: Iterator[list[Item]], take: Callable[[Decision], None], pace: Pace) -> None:
    """Run the operator in a flow until all is decided."""
    with ExitStack() as resources:
        ports = live_bidding_ports(config, EmptyLog(), AckedOffsets(), resources, SystemClock())
        flow = Dataflow("benchmark")
        opportunities = op.input("opportunities", flow, Feed(batches, pace, lambda: ports.executor.is_idle))
        op.output("till", bidding("bidding", opportunities, ports).decisions, Till(take))
        run_main(flow, epoch_interval=timedelta(seconds=1))


def opportunity(number: int, budget_ms: int) -> Opportunity:
    """An opportunity that arises now."""
    now_ms = time.time_ns() // 1_000_000
    return Opportunity(
        auction_id=blake2b(str(number).encode(), digest_size=16).hexdigest(),
        box_id=f"stb-{number:06d}",
        box_key=f"{number:032x}",
        partition=number % KEYS,
        group=0,
        offset=number,
        emitted_ms=now_ms,
        trigger="dwell",
        opportunity_ms=now_ms,
        deadline_ms=now_ms + budget_ms,
        slot_ms=30_000,
        channel_id=f"ch{number % 40}",
        last_channel_id="ch7",
        last_ad_id="ad-3",
    )


def batches_of(count: int, size: int, budget_ms: int) -> Iterator[list[Item]]:
    """`count` opportunities, `size` at a time, each made when it is taken, spread over the keys."""
    for first in range(0, count, size):
        made = [opportunity(number, budget_ms) for number in range(first, min(first + size, count))]
        by_key: dict[int, list[Opportunity]] = {}
        for one in made:
            by_key.setdefault(one.partition, []).append(one)
        yield [(f"p{key:03d}g0", ones) for key, ones in by_key.items()]


def config_for(urls: dict[str, str], auction: str, aggregator: str = "") -> Config:
    """Configuration with these OpenRTB aggregators, by name."""
    text = f'[kafka]\nbootstrap = "none:1"\n[bigquery]\nproject = "none"\n[auction]\n{auction}\n'
    text += '[privacy]\nbox_key_secret = "0123456789abcdef"\nhistory = "always"\n'
    for name, url in urls.items():
        text += f'[[aggregators]]\nname = "{name}"\nadapter = "openrtb"\nurl = "{url}"\n{aggregator}\n'
        text += 'options = { publisher_id = "p", app_bundle = "b" }\n'
    return parse_config(text)


# The other side --------------------------------------------------------------------------------------------------


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
