"""Bytewax shell of the asynchronous map."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Generic, TypeVar

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from datastreamx.errors import CrashError
from operators.async_map.executor import Done, Executor, Job
from operators.async_map.journal import Journal, Replay
from operators.async_map.snapshot import VERSION, InFlight, Snapshot, SnapshotCodec

V = TypeVar("V")
W = TypeVar("W")

_POLL_MS = 2
# An idle key wakes up now and then, so that its snapshot names a recent mark and a restart reads little back.
_IDLE = timedelta(seconds=60)
_DRAIN_POLL_S = 0.002
# Outputs under way when a flow was aborted are not for the next one, nor for another step with the same keys.
_OUTBOXES = itertools.count()


@dataclass(frozen=True, kw_only=True)
class AsyncMap(Generic[V, W]):
    """What `async_map` is to do; all callables except `fn` must return at once.

    Attributes:
        executor: Where the jobs run; it sets capacity and concurrency.
        fn: Called with the item, the attempt (1, and one more for every time it was issued again after a crash) and
            `time.perf_counter_ns` of the hand-over, on the executor's loop.
        item_type: What msgspec reads items back as from a snapshot.
        id_of: Id of an item, equal in every replay. It is logged, so it must hold nothing personal.
        deadline_of: Epoch milliseconds after which `on_timeout` is the output; `None`: whenever `fn` is done.
        on_timeout: Output of an item that was not done by its deadline, told the attempt. Called on the executor's
            thread.
        on_shed: Output of an item for which there was no place.
        on_error: Output of an item for which `fn` raised, told the attempt and the error; called on the executor's
            thread. Unset: the flow stops.
        settle: Output of an item that needs no job, `None` if it does. Asked first, before a place is taken.
        order_of: Outputs of items with equal values leave in the order in which the items arrived; unset: as they
            come about. Within one Bytewax key.
        on_emit: Last look at an output of any kind, with the epoch milliseconds at which it leaves.
        journal: Makes the outputs effectively once; unset: a crash repeats those since the last snapshot.
        on_recalled: Told of every item whose output the journal holds already.
    """

    executor: Executor[W]
    fn: Callable[[V, int, int], Coroutine[Any, Any, W]]
    item_type: Any
    id_of: Callable[[V], str]
    deadline_of: Callable[[V], int | None]
    on_timeout: Callable[[V, int], W]
    on_shed: Callable[[V], W]
    on_error: Callable[[V, int, Exception], W] | None = None
    settle: Callable[[V], W | None] | None = None
    order_of: Callable[[V], Hashable] | None = None
    on_emit: Callable[[W, int], W] | None = None
    journal: Journal[V] | None = None
    on_recalled: Callable[[V], None] | None = None


class _Flight(Generic[V, W]):
    """An item in flight; `done` holds its output while that waits for its predecessors."""

    __slots__ = ("attempt", "done", "id", "item", "line")

    def __init__(self, flight_id: str, item: V, attempt: int) -> None:
        self.id = flight_id
        self.item = item
        self.attempt = attempt
        self.line: deque[_Flight[V, W]] | None = None
        self.done: Done[W] | None = None


class AsyncMapLogic(StatefulBatchLogic[tuple[str, V], W, bytes]):
    """Items of one key.

    At every snapshot an item is in exactly one place: input not read yet, `_in_flight`, or output emitted.
    """

    def __init__(self, terms: AsyncMap[V, W], codec: SnapshotCodec[V], snapshot: bytes | None) -> None:
        self._terms = terms
        self._codec = codec
        self._outbox = f"outbox-{next(_OUTBOXES)}"
        self._key: str | None = None
        self._replay: Replay[V] | None = None
        self._in_flight: dict[str, _Flight[V, W]] = {}
        self._lines: dict[Hashable, deque[_Flight[V, W]]] = {}
        self._settled_on_resume: list[Done[W]] = []
        if snapshot is not None:
            self._resume(codec.decode(snapshot))

    def on_batch(self, values: list[tuple[str, V]]) -> tuple[Iterable[W], bool]:
        """Accept items. What is done meanwhile leaves first: batches in close succession must not keep it waiting."""
        if self._key is None:
            self._open(values[0][0], None)
        outputs = self._collect()
        outputs += self._accept([item for _, item in values if not self._is_recalled(item)])
        if self._replay is not None:
            self._replay.passed(values[-1][1])
        return self._emit(outputs), StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[Iterable[W], bool]:
        """Emit what was done meanwhile."""
        return self._emit(self._collect()), StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[W], bool]:
        """Wait for all jobs; each ends by its own deadline."""
        outputs = self._collect()
        while self._in_flight:
            time.sleep(_DRAIN_POLL_S)
            outputs += self._collect()
        return self._emit(outputs), StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        """Soon while jobs run, else now and then."""
        now = datetime.now(UTC)
        if not self._in_flight:
            return now + _IDLE
        # On a common grid: one activation of the worker then serves all keys. Each at its own moment, dozens of keys
        # would wake it every few microseconds, and every time take the interpreter from the loop.
        milliseconds = now.microsecond // 1000
        return now.replace(microsecond=0) + timedelta(milliseconds=milliseconds - milliseconds % _POLL_MS + _POLL_MS)

    def snapshot(self) -> bytes:
        """Versioned bytes of the items in flight."""
        if self._key is None:
            raise CrashError("a snapshot was asked of a logic that never had an item")
        mark = self._replay.mark() if self._replay is not None else None
        in_flight = [InFlight(flight.item, flight.attempt) for flight in self._in_flight.values()]
        return self._codec.encode(Snapshot(VERSION, self._key, mark, in_flight))

    def _open(self, key: str, mark: int | None) -> None:
        self._key = key
        if self._terms.journal is not None:
            self._replay = Replay(self._terms.journal, key, mark)

    def _resume(self, snapshot: Snapshot[V]) -> None:
        self._open(snapshot.key, snapshot.mark)
        again = [entry for entry in snapshot.in_flight if not self._is_recalled(entry.item)]
        # Beyond capacity if need be: these had their places before the crash.
        self._terms.executor.reserve(len(again), beyond_capacity=True)
        started = []
        for entry in again:
            flight = self._take_off(entry.item, entry.attempt + 1)
            output = self._terms.settle(entry.item) if self._terms.settle is not None else None
            if output is None:
                started.append(flight)
            else:
                # Nothing can leave from here. Until it can, a snapshot must find the item in flight.
                self._settled_on_resume.append(Done(flight.id, output))
        self._start(started)

    def _is_recalled(self, item: V) -> bool:
        if self._replay is None or not self._replay.holds(self._terms.id_of(item)):
            return False
        if self._terms.on_recalled is not None:
            self._terms.on_recalled(item)
        return True

    def _accept(self, items: list[V]) -> list[W]:
        settle = self._terms.settle
        settled = [settle(item) for item in items] if settle is not None else [None] * len(items)
        places = self._terms.executor.reserve(settled.count(None))
        outputs: list[W] = []
        started = []
        for item, output_at_once in zip(items, settled, strict=True):
            if output_at_once is None and places > 0:
                places -= 1
                started.append(self._take_off(item, 1))
                continue
            output = output_at_once if output_at_once is not None else self._terms.on_shed(item)
            if self._terms.order_of is None or self._terms.order_of(item) not in self._lines:
                outputs.append(output)
            else:
                # Its predecessors have not left. It stays in flight without a job, and so that memory stays bounded
                # it counts: others are shed sooner.
                self._terms.executor.reserve(beyond_capacity=True)
                flight = self._take_off(item, 1)
                flight.done = Done(flight.id, output)
        self._start(started)
        return outputs

    def _take_off(self, item: V, attempt: int) -> _Flight[V, W]:
        flight_id = self._terms.id_of(item)
        while flight_id in self._in_flight:
            # The source repeats itself. Each copy has an output of its own: what to do with them is not known here.
            flight_id += "+"
        flight: _Flight[V, W] = _Flight(flight_id, item, attempt)
        self._in_flight[flight_id] = flight
        if self._terms.order_of is not None:
            flight.line = self._lines.setdefault(self._terms.order_of(item), deque())
            flight.line.append(flight)
        return flight

    def _start(self, flights: list[_Flight[V, W]]) -> None:
        terms, now_ns = self._terms, time.perf_counter_ns()
        self._terms.executor.submit(
            self._outbox,
            [
                Job(
                    flight.id,
                    partial(terms.fn, flight.item, flight.attempt, now_ns),
                    terms.deadline_of(flight.item),
                    partial(terms.on_timeout, flight.item, flight.attempt),
                    partial(terms.on_error, flight.item, flight.attempt) if terms.on_error is not None else None,
                )
                for flight in flights
            ],
        )

    def _collect(self) -> list[W]:
        """Outputs that may leave; the caller emits them before it returns to Bytewax."""
        done = self._terms.executor.collect(self._outbox)
        if self._settled_on_resume:
            done, self._settled_on_resume = self._settled_on_resume + done, []
        if not done:
            return []
        before = len(self._in_flight)
        outputs: list[W] = []
        for one in done:
            flight = self._in_flight[one.id]
            if flight.line is None:
                del self._in_flight[one.id]
                outputs.append(one.output)
            else:
                flight.done = one
                self._leave(flight.line, outputs)
        self._terms.executor.release(before - len(self._in_flight))
        return outputs

    def _leave(self, line: deque[_Flight[V, W]], outputs: list[W]) -> None:
        while line and (done := line[0].done) is not None:
            flight = line.popleft()
            del self._in_flight[flight.id]
            outputs.append(done.output)
            if not line and self._terms.order_of is not None:
                del self._lines[self._terms.order_of(flight.item)]

    def _emit(self, outputs: list[W]) -> list[W]:
        if self._terms.on_emit is None or not outputs:
            return outputs
        now_ms = self._terms.executor.clock.now_ms()
        return [self._terms.on_emit(output, now_ms) for output in outputs]


@operator
def async_map(step_id: str, up: KeyedStream[V], terms: AsyncMap[V, W]) -> KeyedStream[W]:
    """Apply a coroutine to every item, many at a time.

    Args:
        step_id: Unique id of the step; items in flight are stored under it.
        up: Items under few keys (hundreds, not one per user: Bytewax looks at every key with a timer twice per
            activation, and items in flight need one).
        terms: What to do.

    Returns:
        One output per item, under the item's key, unless the journal holds it already.
    """
    # Bytewax does not tell a logic its key.
    keyed: KeyedStream[tuple[str, V]] = op.flat_map_batch("key", up, lambda batch: [(pair[0], pair) for pair in batch])
    codec: SnapshotCodec[V] = SnapshotCodec(step_id, terms.item_type)
    return op.stateful_batch("jobs", keyed, partial(AsyncMapLogic, terms, codec))
