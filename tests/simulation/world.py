"""Virtual time, and what happens in it by itself: one agenda for brokers, BigQuery, boxes and event loops."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from random import Random
from typing import NamedTuple

from datastreamx.clock import ManualClock
from tests.builders import T0


class Killed(BaseException):
    """A process was killed, here and now. No `except Exception` of the product may swallow it: none stops SIGKILL."""


class Moment(NamedTuple):
    """Line of a timeline."""

    at_ms: int
    who: str
    what: str


class World:
    """Time and chance of one history. Every actor has randomness of its own, so that one more draw disturbs no other.

    Attributes:
        is_calm: No new fault happens; set for the end of a history, in which everything has to come to rest.
        faults: What was done to the product, in order.
        seen: How often each kind of thing happened.
        trace: Every step, if somebody wants to see it.
    """

    def __init__(self, seed: int, *, with_trace: bool = False) -> None:
        self.seed = seed
        self.clock = ManualClock(T0)
        self.is_calm = False
        self.faults: list[Moment] = []
        self.seen: Counter[str] = Counter()
        self.trace: list[Moment] | None = [] if with_trace else None
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._entries = 0

    def random(self, actor: str) -> Random:
        """Randomness of an actor."""
        return Random(f"{self.seed}/{actor}")

    def at(self, when_ms: int, do: Callable[[], None]) -> None:
        """Do something at a time; what is due at the same time is done in the order in which it was asked for."""
        self._entries += 1
        heapq.heappush(self._agenda, (when_ms, self._entries, do))

    def elapse(self, duration_ms: int) -> None:
        """Let time pass, and do what is due meanwhile, each at its own time."""
        until_ms = self.clock.now_ms() + duration_ms
        agenda = self._agenda
        while agenda and agenda[0][0] <= until_ms:
            when_ms, _, do = heapq.heappop(agenda)
            self.clock.advance(max(0, when_ms - self.clock.now_ms()))
            do()
        self.clock.advance(max(0, until_ms - self.clock.now_ms()))

    @property
    def next_ms(self) -> int | None:
        """When the next thing is due."""
        return self._agenda[0][0] if self._agenda else None

    def fault(self, who: str, kind: str, detail: str = "") -> None:
        """Note something bad that was done."""
        self.seen[f"fault: {kind}"] += 1
        self.faults.append(Moment(self.clock.now_ms() - T0, who, f"{kind} {detail}".rstrip()))
        self.tell(who, f"FAULT {kind} {detail}".rstrip())

    def tell(self, who: str, what: str) -> None:
        """Note a step, if there is a trace."""
        if self.trace is not None:
            self.trace.append(Moment(self.clock.now_ms() - T0, who, what))


class VirtualTime:
    """Stands for the modules `time` and `datetime` where the product reads the machine's clock by itself.

    `notify_at` has to answer in wall time, because Bytewax compares it with the wall clock; so the steps read it.

    Attributes:
        world: Whose time it is.
        sleep: Called with seconds when the product waits.
    """

    def __init__(self) -> None:
        self.world = World(0)
        self.sleep: Callable[[float], None] = lambda _: None

    def now(self, tz: tzinfo | None = None) -> datetime:
        """`datetime.now`."""
        return datetime.fromtimestamp(self.world.clock.now_ms() / 1000, tz or UTC)

    def perf_counter_ns(self) -> int:
        """`time.perf_counter_ns`."""
        return self.world.clock.now_ms() * 1_000_000

    def monotonic(self) -> float:
        """`time.monotonic`."""
        return self.world.clock.now_ms() / 1000
