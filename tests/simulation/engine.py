"""Bytewax in small: runs the product's own dataflow graphs, with Bytewax's epochs and with its freedoms drawn by lot.

What is true to the original, as measured on Bytewax 0.21.1 (`test_engine.py` holds it against the real one):

- Every step works on one epoch at a time and closes it when all above it have closed it and nothing of it is left.
- At the close of an epoch the keys and parts that were called in it are snapshotted, and no others.
- A step that has closed an epoch may run timers in the next one at once, long before the snapshots are durable. Only
  the source waits: it is asked for items of an epoch when the epoch before is durable. A timer proves nothing.
- Snapshots of an epoch become durable together, some time after the last one was taken.
- A part of a sink is built when its first item comes, or at the start if there is a snapshot of it.
- When the input has ended every key is told, then the last epoch is closed, and the sinks are closed.

Drawn by lot: which step runs, how many of its items at once, from which of its inputs, keys in which order, when timers
run late, when epochs end and when they become durable. One worker; stateless steps run at once, as parts of what
feeds them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple, Protocol

from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource
from bytewax.outputs import FixedPartitionedSink

Key = tuple[str, str]
"""(step id, key or part): what a snapshot is stored under."""


@dataclass(frozen=True)
class Node:
    """A core operator with memory. `inputs` are those from which items come to it, through stateless ones."""

    kind: str
    step_id: str
    builder: Callable[[Any], Any] | None
    inputs: tuple[int, ...]


WRITE_MS = (0, 0, 0, 20, 500, 2_000)
"""How long a recovery store takes to write an epoch: mostly no time, sometimes a disk is slow."""


class Route(NamedTuple):
    """Where items go: to a node, or through the mapper of a stateless step and on from there."""

    mapper: Callable[[list[Any]], Iterable[Any]] | None
    place: int | None
    further: list[Route]


class Graph:
    """A dataflow, taken apart: nodes with memory (source, stateful step, sink), and what lies between them."""

    def __init__(self, flow: Dataflow) -> None:
        self._core: list[Any] = []
        self._gather(flow)
        self.nodes: list[Node] = []
        feeders: dict[str, set[int]] = {}
        # Bytewax lists operators in the order in which they were made, so whatever feeds one comes before it.
        self._places: dict[str, int] = {}
        for step in self._core:
            kind = type(step).__name__
            above = set().union(*(feeders[stream] for stream in _streams_into(step))) if kind != "input" else set()
            if kind in {"input", "stateful_batch", "output"}:
                self._places[step.step_id] = len(self.nodes)
                self.nodes.append(Node(kind, step.step_id, getattr(step, "builder", None), tuple(sorted(above))))
                above = {len(self.nodes) - 1}
            for stream in _streams_out_of(step):
                feeders[stream] = above

        self.routes = [self._routes_from(step) for step in self._core if step.step_id in self._places]

    def _gather(self, above: Any) -> None:
        for step in above.substeps:
            if step.substeps:
                self._gather(step)
            else:
                self._core.append(step)

    def _routes_from(self, step: Any) -> list[Route]:
        return [route for stream in _streams_out_of(step) for route in self._follow(stream)]

    def _follow(self, stream: str) -> list[Route]:
        found: list[Route] = []
        for step in self._core:
            if stream not in _streams_into(step):
                continue
            kind = type(step).__name__
            if step.step_id in self._places:
                found.append(Route(None, self._places[step.step_id], []))
            elif kind == "flat_map_batch":
                found.append(Route(step.mapper, None, self._routes_from(step)))
            elif kind in {"merge", "redistribute", "_noop"}:
                found += self._routes_from(step)
            else:
                raise NotImplementedError(f"the simulated engine does not know the operator {kind}")
        return found


def _streams_into(step: Any) -> list[str]:
    return [stream for name in type(step).ups_names for stream in getattr(step, name).stream_ids.values()]


def _streams_out_of(step: Any) -> list[str]:
    return [stream for name in type(step).dwn_names for stream in getattr(step, name).stream_ids.values()]


_DISCARDED = object()
_NEVER_MS = float("inf")


@dataclass
class Store:
    """A recovery store.

    Attributes:
        values: What is durable.
        epoch: The last one that is.
        unfinished: Rows of the epoch after that, which a killed process has left behind. Bytewax would take those that
            are not written anew for part of it, see `flows.recovery.store`; so the product deletes them at the start.
        history: Values of earlier epochs, the oldest first, for those who put an old copy back.
    """

    values: dict[Key, Any] = field(default_factory=dict)
    epoch: int = 0
    unfinished: dict[Key, Any] = field(default_factory=dict)
    history: list[dict[Key, Any]] = field(default_factory=list)

    def open(self) -> None:
        """What `flows.recovery.opening` does."""
        self.unfinished.clear()

    def commit(self, changes: Mapping[Key, Any]) -> None:
        """Make the snapshots of the next epoch durable, all of them at once."""
        self.history.append(dict(self.values))
        for key, value in {**self.unfinished, **changes}.items():
            if value is _DISCARDED:
                self.values.pop(key, None)
            else:
                self.values[key] = value
        self.unfinished.clear()
        self.epoch += 1


class Watcher(Protocol):
    """Hears what the engine does, and may kill it by raising."""

    def reached(self, phase: str) -> None:
        """The engine is at a point where a process may die."""

    def did(self, what: str) -> None:
        """One step, in words."""


class _Step:
    """A node at work."""

    __slots__ = ("awoken", "epoch", "keys", "node", "place", "queued", "queues", "sink_names", "timers")

    def __init__(self, node: Node, place: int, epoch: int) -> None:
        self.node = node
        self.place = place
        self.epoch = epoch
        self.keys: dict[str, Any] = {}
        self.awoken: dict[str, None] = {}
        self.timers: dict[str, float] = {}
        self.queued = 0
        self.queues: dict[int, deque[tuple[int, list[Any]]]] = {place: deque() for place in node.inputs}
        self.sink_names: list[str] = []


Choice = tuple[Callable[[_Step], None], _Step]
"""Something that could be done next."""


class Engine:
    """One worker of one process, from its start to its end.

    Args:
        graph: Of its flow.
        ends: Source or sink by step id; those of the graph are placeholders.
        store: Where it resumes from and commits to.
        now_ms: Wall clock of `notify_at`.
        random: Makes all choices.
        watcher: See there.
        has_input: Whether the source has something to say; without, it is not asked.
        grain: How many batches a step takes at once, and how seldom one is cut: 1 is the finest.
    """

    def __init__(  # noqa: PLR0917  what an engine consists of
        self,
        graph: Graph,
        ends: Mapping[str, Any],
        store: Store,
        now_ms: Callable[[], int],
        random: Random,
        watcher: Watcher,
        has_input: Callable[[], bool] = lambda: True,
        grain: int = 4,
    ) -> None:
        self._graph = graph
        self._has_input = has_input
        self._grain = grain
        self._ends = ends
        self._store = store
        self._now_ms = now_ms
        self._random = random
        self._watcher = watcher
        first = store.epoch + 1
        self._steps = [_Step(node, place, first) for place, node in enumerate(graph.nodes)]
        self._source = self._steps[0]
        # Steps below the source that have not closed the epoch that it has ended.
        self._open = 0
        self._pending: dict[Key, Any] = {}
        self.is_ending = False
        self.has_ended = False
        self._queued = 0
        self._written_epoch = 0
        self._written_ms = 0
        self._next_timer_ms: float = _NEVER_MS
        # The source hears that an epoch is durable when it is asked for items of the next one.
        self._owes_proof = False

    @property
    def epoch(self) -> int:
        """Epoch of the source."""
        return self._source.epoch

    def start(self) -> None:
        """Build what the store holds state for, in any order, then the source."""
        by_step: dict[str, list[tuple[str, Any]]] = {}
        for (step_id, key), value in self._store.values.items():
            by_step.setdefault(step_id, []).append((key, value))
        order = self._steps[1:]
        self._random.shuffle(order)
        for step in order:
            self._watcher.reached("restoring")
            for key, value in by_step.get(step.node.step_id, ()):
                self._build(step, key, value)
        source = self._source
        states = dict(by_step.get(source.node.step_id, ()))
        self._watcher.reached("restoring")
        made: FixedPartitionedSource[Any, Any] = self._ends[source.node.step_id]
        for part in made.list_parts():
            source.keys[part] = made.build_part(source.node.step_id, part, states.get(part))

    def turn(self, *, may_end_epoch: bool) -> bool:
        """Do one thing; tells whether there was one. `may_end_epoch`: the epoch is old enough."""
        source, now_ms = self._source, self._now_ms()
        is_durable = source.epoch == self._store.epoch + 1
        choices: list[Choice] = []
        if self._queued or not is_durable:
            self._look_for_items(choices, may_close=not is_durable)
        if now_ms >= self._next_timer_ms:
            self._look_for_timers(choices, now_ms)
        if not is_durable:
            if self._is_complete() and now_ms >= self._written_ms:
                choices.append((self._commit, source))
        elif not self.is_ending:
            if may_end_epoch:
                choices.append((self._end_epoch, source))
            if self._owes_proof or self._has_input():
                choices.append((self._emit, source))
        if not choices:
            return False
        do, step = choices[0] if len(choices) == 1 else choices[int(self._random.random() * len(choices))]
        do(step)
        return True

    def _look_for_items(self, choices: list[Choice], *, may_close: bool) -> None:
        """Steps that have items of their epoch, or can close it because they have none and get none.

        One that nothing has touched in its epoch closes it at once: nobody can tell when.
        """
        newest = self._source.epoch
        for step in self._steps:
            epoch = step.epoch
            if step.queued and any(queue and queue[0][0] == epoch for queue in step.queues.values()):
                choices.append((self._work, step))
            elif may_close and epoch < newest and self._may_close(step):
                if step.awoken or step.timers or self.is_ending:
                    choices.append((self._close, step))
                else:
                    step.epoch += 1
                    self._open -= 1

    def _look_for_timers(self, choices: list[Choice], now_ms: int) -> None:
        firsts = [(min(step.timers.values()), step) for step in self._steps if step.timers]
        choices += [(self._fire, step) for first_ms, step in firsts if first_ms <= now_ms]
        self._next_timer_ms = min((first_ms for first_ms, _ in firsts), default=_NEVER_MS)

    def _is_complete(self) -> bool:
        """Whether all snapshots of the epoch are taken; from then on they are being written, for a while."""
        epoch = self._source.epoch
        if self._open or epoch == self._store.epoch + 1:
            return False
        if self._written_epoch != epoch:
            self._written_epoch = epoch
            self._written_ms = self._now_ms() + self._random.choice(WRITE_MS)
        return True

    @property
    def has_items(self) -> bool:
        """Whether anything is under way between the steps."""
        return bool(self._queued)

    @property
    def has_work(self) -> bool:
        """Whether anything is under way between the steps, or waits to become durable."""
        return bool(self._queued) or self._source.epoch != self._store.epoch + 1

    @property
    def phase(self) -> str:
        """Where the process is, for those who want to kill it there."""
        if self.is_ending:
            return "ending"
        if self._source.epoch == self._store.epoch + 1:
            return "running"
        return "snapshot" if self._open else "commit"

    def logics(self, step_id: str) -> dict[str, Any]:
        """Live logics or parts of a step."""
        return next(step.keys for step in self._steps if step.node.step_id == step_id)

    def _send(self, step: _Step, items: list[Any]) -> None:
        if items:
            self._deliver(self._graph.routes[step.place], step, items)

    def _deliver(self, routes: list[Route], origin: _Step, items: list[Any]) -> None:
        for mapper, place, further in routes:
            if place is not None:
                step = self._steps[place]
                step.queues[origin.place].append((origin.epoch, items))
                step.queued += 1
                self._queued += 1
            elif mapper is not None and further:
                out = [*mapper(items)]
                if out:
                    self._deliver(further, origin, out)

    def _may_close(self, step: _Step) -> bool:
        steps, epoch = self._steps, step.epoch
        for place in step.node.inputs:  # noqa: SIM110  a generator costs more than all the rest of this
            if steps[place].epoch <= epoch:
                return False
        return True

    def _work(self, step: _Step) -> None:
        """Some items from one of the inputs, all of one epoch."""
        random = self._random
        ready = [queue for queue in step.queues.values() if queue and queue[0][0] == step.epoch]
        queue = ready[0] if len(ready) == 1 else random.choice(ready)
        items: list[Any] = []
        taken = 0
        for _ in range(random.randint(1, self._grain)):
            if not queue or queue[0][0] != step.epoch:
                break
            epoch, batch = queue.popleft()
            if len(batch) > 1 and random.random() < 1 / self._grain:
                cut = random.randrange(1, len(batch))
                queue.appendleft((epoch, batch[cut:]))
                items += batch[:cut]
                break
            taken += 1
            items += batch
        step.queued -= taken
        self._queued -= taken
        grouped: dict[str, list[Any]] = {}
        if step.node.kind == "output":
            for key, value in items:
                grouped.setdefault(self._part_of(step, key), []).append(value)
        else:
            for key, value in items:
                grouped.setdefault(key, []).append(value)
        keys = [*grouped]
        random.shuffle(keys)
        for key in keys:
            self._watcher.reached(self.phase)
            logic = step.keys.get(key)
            if logic is None:
                logic = self._build(step, key, None)
            step.awoken[key] = None
            self._watcher.did(f"{step.node.step_id} {key}: {len(grouped[key])} items in epoch {step.epoch}")
            if step.node.kind == "output":
                logic.write_batch(grouped[key])
            else:
                self._take(step, key, logic.on_batch(grouped[key]))

    def _fire(self, step: _Step) -> None:
        now = self._now_ms()
        due = [key for key, when in step.timers.items() if when <= now]
        self._random.shuffle(due)
        for key in due:
            step.awoken[key] = None
            self._watcher.did(f"{step.node.step_id} {key}: timer in epoch {step.epoch}")
            self._take(step, key, step.keys[key].on_notify())

    def _take(self, step: _Step, key: str, result: tuple[Iterable[Any], bool]) -> None:
        out, discard = result
        self._send(step, [(key, item) for item in out])
        if discard:
            del step.keys[key]
            step.timers.pop(key, None)
        else:
            self._schedule(step, key)

    def _schedule(self, step: _Step, key: str) -> None:
        when = step.keys[key].notify_at()
        if when is None:
            step.timers.pop(key, None)
        else:
            step.timers[key] = due_ms = when.timestamp() * 1000
            self._next_timer_ms = min(self._next_timer_ms, due_ms)

    def _emit(self, source: _Step) -> None:
        self._owes_proof = False
        parts = [*source.keys]
        self._random.shuffle(parts)
        for part in parts:
            self._watcher.reached("running")
            try:
                items = [*source.keys[part].next_batch()]
            except StopIteration:
                self.is_ending = True
                self._end_epoch(source)
                return
            if items:
                self._watcher.did(f"{source.node.step_id} {part}: {len(items)} items in epoch {source.epoch}")
            self._send(source, items)

    def _end_epoch(self, source: _Step) -> None:
        for part, logic in source.keys.items():
            self._watcher.reached("snapshot")
            self._pending[source.node.step_id, part] = logic.snapshot()
        source.epoch += 1
        self._open = len(self._steps) - 1
        self._watcher.did(f"{source.node.step_id}: epoch {source.epoch - 1} ends")

    def _close(self, step: _Step) -> None:
        if self.is_ending and step.node.kind == "stateful_batch":
            for key, logic in [*step.keys.items()]:
                self._watcher.reached("ending")
                step.awoken[key] = None
                self._take(step, key, logic.on_eof())
        keys = [key for key in step.awoken if key in step.keys]
        self._random.shuffle(keys)
        for key in keys:
            self._watcher.reached("ending" if self.is_ending else "snapshot")
            self._pending[step.node.step_id, key] = step.keys[key].snapshot()
        for key in step.awoken:
            if key not in step.keys:
                self._pending[step.node.step_id, key] = _DISCARDED
        step.awoken.clear()
        step.epoch += 1
        self._open -= 1
        self._watcher.did(f"{step.node.step_id}: closes epoch {step.epoch - 1}, {len(keys)} snapshots")
        if self.is_ending:
            step.timers.clear()
            if step.node.kind == "output":
                for part in step.keys.values():
                    part.close()

    def _commit(self, source: _Step) -> None:
        self._watcher.reached("commit")
        self._store.commit(self._pending)
        self._pending = {}
        self._owes_proof = True
        self._watcher.did(f"epoch {self._store.epoch} is durable")
        if self.is_ending:
            for part in source.keys.values():
                part.close()
            self.has_ended = True
        self._watcher.reached("durable")

    def die(self, *, all_written: bool) -> bool:
        """The process dies while the store writes: some rows are there by then, or all; tells whether it is all."""
        if all_written and self._is_complete():
            self._store.commit(self._pending)
            return True
        some = {key: value for key, value in self._pending.items() if self._random.random() < 0.5}
        self._store.unfinished.update(some)
        return False

    def _part_of(self, step: _Step, key: str) -> str:
        sink: FixedPartitionedSink[Any, Any] = self._ends[step.node.step_id]
        if not step.sink_names:
            step.sink_names = sorted(sink.list_parts())
        names = step.sink_names
        return names[0] if len(names) == 1 else names[sink.part_fn(key) % len(names)]

    def _build(self, step: _Step, key: str, state: Any) -> Any:
        if step.node.kind == "output":
            logic = self._ends[step.node.step_id].build_part(step.node.step_id, key, state)
        elif step.node.builder is not None:
            logic = step.node.builder(state)
        else:
            raise AssertionError(f"{step.node.step_id} has no builder")
        step.keys[key] = logic
        if step.node.kind == "stateful_batch" and state is not None:
            self._schedule(step, key)
        return logic
