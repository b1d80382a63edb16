"""A source that is in memory, a sink that drops, and what a flow does from one hand-out to the next."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeVar

import msgspec
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from datastreamx.model.chunk import Chunk
from datastreamx.model.keygroup import KeyGroup
from flows.bench.machine import resident_mib

Item = tuple[str, object]
"""A key and its item."""

Keyed = TypeVar("Keyed")

_CHUNKS, _VALUES = 4, 1_000
"""Items of one hand-out, like what a poll returns."""


class Packed(NamedTuple):
    """Items of one hand-out, encoded.

    They are decoded when they are handed out, so they lie in the cache of the processor, as what a client has just
    received does. Made beforehand, each record would have to be fetched from memory: 0.6 µs of 2.4 per event.
    """

    events: int
    data: bytes


_ENCODE = msgspec.msgpack.Encoder().encode
open_chunks = msgspec.msgpack.Decoder(list[tuple[str, Chunk]]).decode
"""Chunks of a hand-out under the keys of their key groups."""
open_values = msgspec.msgpack.Decoder(list[tuple[str, bytes]]).decode
"""Record values of a hand-out under one key."""


def pack_chunks(made: Iterable[Chunk]) -> list[Packed]:
    """Hand-outs of some chunks each, for `open_chunks`."""
    return [
        Packed(
            sum(len(one.values) for one in some),
            _ENCODE([(KeyGroup(one.partition, one.group).key, one) for one in some]),
        )
        for some in _some(made, _CHUNKS)
    ]


def pack_values(values: Iterable[bytes]) -> list[Packed]:
    """Hand-outs of many values each, for `open_values`."""
    return [Packed(len(some), _ENCODE([("", value) for value in some])) for some in _some(values, _VALUES)]


def _some(items: Iterable[Keyed], size: int) -> Iterator[list[Keyed]]:
    left = iter(items)
    while found := [*islice(left, size)]:
        yield found


@dataclass(frozen=True)
class Pause:
    """What the snapshot of one key takes, and how many snapshots were seen."""

    wall_s: float
    cpu_s: float
    snapshots: int


def wall_and_cpu() -> tuple[float, float]:
    """Seconds of the clock, and of the CPU by all threads of this process."""
    return time.perf_counter(), time.process_time()


@dataclass
class Gaps:
    """Times between hand-outs. In those that close an epoch the flow takes its snapshot.

    Attributes:
        clock: Tells wall and CPU, seconds.
        resident_mib: The most memory at the end of an epoch.
    """

    clock: Callable[[], tuple[float, float]] = wall_and_cpu
    resident_mib: float = 0.0
    _ordinary: list[tuple[float, float]] = field(default_factory=list)
    _closing: list[tuple[float, float, int]] = field(default_factory=list)
    _touched: set[str] = field(default_factory=set)
    _last: tuple[float, float] | None = None
    _closes: bool = False

    def asked(self) -> None:
        """The flow asks for more, so it is done with what it had."""
        now = self.clock()
        if self._last is not None:
            wall_s, cpu_s = now[0] - self._last[0], now[1] - self._last[1]
            if self._closes:
                self._closing.append((wall_s, cpu_s, len(self._touched)))
                self._touched.clear()
            else:
                self._ordinary.append((wall_s, cpu_s))
        self._last, self._closes = now, False

    def handed_out(self, items: Sequence[Item]) -> None:
        """The keys of these items are part of the next snapshot: it holds only what an epoch has changed."""
        self._touched.update(key for key, _ in items)

    def epoch_closes(self) -> None:
        """Before it asks again the flow takes a snapshot."""
        self._closes = True
        self.resident_mib = max(self.resident_mib, resident_mib())

    def pause(self) -> Pause | None:
        """What a snapshot takes beyond the work of an ordinary gap, for each key in it: medians.

        `None` if there was none.
        """
        if not self._closing or not self._ordinary:
            return None
        wall_s = statistics.median(wall_s for wall_s, _ in self._ordinary)
        cpu_s = statistics.median(cpu_s for _, cpu_s in self._ordinary)
        return Pause(
            max(0.0, statistics.median((gap_s - wall_s) / keys for gap_s, _, keys in self._closing)),
            max(0.0, statistics.median((gap_s - cpu_s) / keys for _, gap_s, keys in self._closing)),
            len(self._closing),
        )

    def snapshots_cpu_s(self) -> float:
        """CPU of all snapshots together."""
        cpu_s = statistics.median(cpu_s for _, cpu_s in self._ordinary) if self._ordinary else 0.0
        return sum(max(0.0, gap_s - cpu_s) for _, gap_s, _ in self._closing)


class _Feed(StatefulSourcePartition[Item, int]):
    def __init__(
        self,
        polls: Sequence[Packed],
        unpack: Callable[[bytes], Sequence[Item]],
        warm: int,
        on_warm: Callable[[], None],
        gaps: Gaps | None,
    ) -> None:
        self._polls, self._unpack, self._warm, self._on_warm, self._gaps = polls, unpack, warm, on_warm, gaps
        self._next, self._is_warm = 0, False

    def next_batch(self) -> Iterable[Item]:
        if self._next >= self._warm:
            if not self._is_warm:
                self._is_warm = True
                self._on_warm()
            if self._gaps is not None:
                self._gaps.asked()
        if self._next >= len(self._polls):
            raise StopIteration
        batch = self._unpack(self._polls[self._next].data)
        self._next += 1
        if self._gaps is not None:
            self._gaps.handed_out(batch)
        return batch

    def snapshot(self) -> int:
        if self._gaps is not None:
            self._gaps.epoch_closes()
        return self._next


class InMemory(FixedPartitionedSource[Item, int]):
    """Hands out items as polls would return them.

    Args:
        polls: All of them.
        unpack: From one of them to its items.
        warm: How many are the warm-up.
        on_warm: Called when it is over.
        gaps: Told of every hand-out after that, and of every end of an epoch.
    """

    def __init__(
        self,
        polls: Sequence[Packed],
        unpack: Callable[[bytes], Sequence[Item]],
        warm: int,
        on_warm: Callable[[], None],
        gaps: Gaps | None = None,
    ) -> None:
        self._given = (polls, unpack, warm, on_warm, gaps)

    def list_parts(self) -> list[str]:
        """One."""
        return ["all"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Feed:  # noqa: ARG002  Bytewax's own
        """From the first item on: nothing is resumed here."""
        return _Feed(*self._given)


class _Drop(StatelessSinkPartition[object]):
    def __init__(self, take: Callable[[list[object]], None]) -> None:
        self._take = take

    def write_batch(self, items: list[object]) -> None:
        self._take(items)


class Drop(DynamicSink[object]):
    """Shows items to `take` and drops them."""

    def __init__(self, take: Callable[[list[object]], None] = lambda _items: None) -> None:
        self._take = take

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Drop:  # noqa: ARG002  Bytewax's own
        """The one partition."""
        return _Drop(self._take)
