"""Auctions in a flow of their own: opportunities at a pace in, decisions out, as the ads flow makes them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from datastreamx.acks import AckedOffsets
from datastreamx.clock import SystemClock
from datastreamx.config import Config, parse_config
from datastreamx.errors import CrashError
from datastreamx.model.auction import DecidedAuction, Decision, Opportunity
from flows.bench.effort import Effort, Stopwatch
from flows.ports.ads import live_bidding_ports
from operators.bidding import bidding

KEYS = 16

Item = tuple[str, list[Opportunity]]


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


def config_for(urls: Mapping[str, str], auction: str, aggregator: str = "") -> Config:
    """Configuration with these OpenRTB aggregators, by name; further settings of auctions, and of each aggregator."""
    text = f'[kafka]\nbootstrap = "none:1"\n[bigquery]\nproject = "none"\n[auction]\n{auction}\n'
    text += '[privacy]\nbox_key_secret = "0123456789abcdef"\nhistory = "always"\n'
    for name, url in urls.items():
        text += f'[[aggregators]]\nname = "{name}"\nadapter = "openrtb"\nurl = "{url}"\n{aggregator}\n'
        text += 'options = { publisher_id = "p", app_bundle = "b" }\n'
    return parse_config(text)


def run_all_won(config: Config, auctions: int, in_flight: int) -> Effort:
    """Run `auctions`, `in_flight` of them at a time, against aggregators that all bid; units are auctions.

    Raises:
        CrashError: Some auction was not won, so something else was measured.
    """
    made = list(batches_of(auctions, 16, 600_000))
    begun = 0
    statuses: list[str] = []

    def batches() -> Iterator[list[Item]]:
        nonlocal begun
        for batch in made:
            begun += sum(len(opportunities) for _, opportunities in batch)
            yield batch

    def as_others_end() -> float:
        return 0.0 if begun - len(statuses) < in_flight else 0.001

    watch = Stopwatch()
    run(config, batches(), lambda decision: statuses.append(decision.status), as_others_end)
    effort = watch.effort(auctions)
    if Counter(statuses) != {"won": auctions}:
        raise CrashError(f"every auction has to be won here, found {dict(Counter(statuses))}")
    return effort
