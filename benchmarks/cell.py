"""One cell of the ads flow without broker and auctions: its source is memory, its facts are counted and dropped.

    python -m benchmarks.cell make|resume|pause|memory|rate --directory DIR --boxes N ...

What `benchmarks.recovery` and `benchmarks.scale` start as processes. The recovery store is the product's, opened by the
product's own guard. Imports are those of a worker and little else: they are part of what is measured.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol
from unittest.mock import patch

import bytewax.operators as op
import msgspec
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from datastreamx.clock import SystemClock
from datastreamx.config import Config
from datastreamx.interpreter import spare_garbage_collection
from datastreamx.model import identity
from datastreamx.model.chunk import Chunk
from datastreamx.model.events import AdShown, BoxEvent, Heartbeat, Tune
from datastreamx.model.facts import Facts
from datastreamx.model.keygroup import KeyGroup, group_of
from datastreamx.place import Place, place_of
from datastreamx.wire.events import encode_event
from datastreamx.wire.facts import FactBatch, encode_facts
from flows.bench.effort import Effort, Stopwatch
from flows.bench.machine import resident_mib
from flows.bench.state import unconnected
from flows.recovery.opening import opened_store
from flows.run import execute
from operators.decode import decode
from operators.decode.records import decode_chunk
from operators.viewing import step, viewing
from operators.viewing.columns import EventRows
from operators.viewing.layout import In
from operators.viewing.snapshot import decode_snapshot, encode_snapshot
from operators.viewing.state import KeyGroupState
from operators.viewing.warm import warm_up
from simulator.traffic import INTERVAL_MS, START_MS, box_id, chunks, events
from sinks.facts.coalesce import Coalescer
from sources.kafka.layouts import event_layouts
from sources.kafka.positions import Layout, Positions, decode_positions
from sources.kafka.witness import Lineage

PARTITIONS, GROUPS = 8, 2
EVENTS_PER_BOX = 3
"""From which the state of a box follows that a store or a process holds."""
WARM_UP_SHARE = 0.1
_BATCH = 4
"""Chunks that a poll returns when a flow catches up."""
_POLL_RECORDS = 5_000
_GATHER_MS = 10
"""For which Kafka gathers records before it answers a consumer of ours, see `datastreamx.kafka`."""

CONFIG = """\
[events]
partitions = {partitions}
groups_per_partition = {groups}
[recovery]
directory = "{directory}"
epoch_ms = {epoch_ms}
[scaling]
{scaling}
"""

Item = tuple[str, Chunk]


class Resumed(msgspec.Struct, frozen=True):
    """From the start of a process until its first event was applied.

    Attributes:
        imports_s: Interpreter and modules.
        compiled_s: Machine code of the state machine, loaded from its cache.
        store_s: The guard reads and checks the store.
        bytewax_s: Bytewax reads it again and builds the flow; all that is not the others.
        states_s: Boxes out of their bytes.
        grown_mib: Resident memory at the first event beyond that of the program and its machine code.
        peak_mib: Largest resident memory.
    """

    imports_s: float
    compiled_s: float
    store_s: float
    bytewax_s: float
    states_s: float
    grown_mib: float
    peak_mib: float

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.imports_s + self.compiled_s + self.store_s + self.bytewax_s + self.states_s


class Paused(msgspec.Struct, frozen=True):
    """Epochs of a cell under steady traffic, one entry per epoch.

    Attributes:
        pauses_ms: Longest that an event waited, from its arrival to its fact.
        cpus_ms: Most CPU time that the worker took between two looks at its source: what of the pause is its own work.
        snapshots_ms: Time in `snapshot()` of the boxes.
        snapshot_bytes: Of the boxes.
        waits_ms: p50 of how long an event waited, all epochs together.
        events: Applied.
        cpu_share: Of one core.
    """

    pauses_ms: list[float]
    cpus_ms: list[float]
    snapshots_ms: list[float]
    snapshot_bytes: list[int]
    waits_ms: float
    events: int
    cpu_share: float


class Raced(msgspec.Struct, frozen=True):
    """One process of several that work at the same time; times of the machine's monotonic clock."""

    begin_s: float
    end_s: float
    effort: Effort


# The flow --------------------------------------------------------------------------------------------------------


class Feed(Protocol):
    """Where a source part has its chunks from."""

    def poll(self) -> Sequence[Item]:
        """What has arrived; raises StopIteration at the end."""


class _Part(StatefulSourcePartition[Item, bytes]):
    """A reader whose snapshots are those of the product's, so that its guard accepts the store."""

    def __init__(self, feed: Feed, layout: Layout, resume_state: bytes | None, on_snapshot: Callable[[], None]) -> None:
        self._feed, self._layout, self._on_snapshot = feed, layout, on_snapshot
        if resume_state is None:
            self._offsets = dict.fromkeys(layout.owned, 0)
            self._lineages = {number: Lineage(id=f"{number:016x}") for number in layout.partitions}
        else:
            positions = decode_positions(resume_state, layout)
            self._offsets, self._lineages = positions.next_offsets, positions.lineages

    def next_batch(self) -> Iterable[Item]:
        items = self._feed.poll()
        for _, chunk in items:
            self._offsets[self._layout.topics[0], chunk.partition] = chunk.offsets[-1] + 1
        return items

    def snapshot(self) -> bytes:
        self._on_snapshot()
        self._lineages = {number: one.after_snapshot() for number, one in self._lineages.items()}
        return Positions.of(self._layout, self._offsets, self._lineages).seal()


class _Source(FixedPartitionedSource[Item, bytes]):
    def __init__(
        self, config: Config, place: Place, feed_of: Callable[[Layout], Feed], on_snapshot: Callable[[], None]
    ) -> None:
        self._layouts = event_layouts(config, place)
        self._feed_of, self._on_snapshot = feed_of, on_snapshot

    def list_parts(self) -> list[str]:
        return [*self._layouts]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> _Part:  # noqa: ARG002  Bytewax's own
        layout = self._layouts[for_part]
        return _Part(self._feed_of(layout), layout, resume_state, self._on_snapshot)


class _Drop(StatelessSinkPartition[tuple[str, object]]):
    """Gathers and encodes facts as the sink does, and drops them."""

    def __init__(self, take: Callable[[Facts], None]) -> None:
        self._take = take
        self._waiting = Coalescer()

    def write_batch(self, items: list[tuple[str, object]]) -> None:
        now_s = time.monotonic()
        for _, item in items:
            if isinstance(item, Facts):
                self._take(item)
                self._drop(self._waiting.add(item, now_s))
        self._drop(self._waiting.due(now_s))

    def _drop(self, batches: list[FactBatch]) -> None:
        for batch in batches:
            encode_facts(batch)


class _Sink(DynamicSink[tuple[str, object]]):
    def __init__(self, take: Callable[[Facts], None] = lambda _: None) -> None:
        self._take = take

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Drop:  # noqa: ARG002  Bytewax's own
        return _Drop(self._take)


def _build(config: Config, source: _Source, on_facts: Callable[[Facts], None]) -> Dataflow:
    """What `flows.ads` does up to its facts; the steps have the same ids."""
    flow = Dataflow("ads")
    decoded = decode("decode", op.input("events", flow, source), config)
    boxes = viewing("viewing", decoded.chunks, config)
    op.output("facts", boxes.facts, _Sink(on_facts))
    op.output("opportunities", boxes.opportunities, _Sink())
    op.output("dead_letters", decoded.dead_letters, _Sink())
    return flow


def _run(  # noqa: PLR0913  what its callers listen to, by name
    config: Config,
    place: Place,
    feed_of: Callable[[Layout], Feed],
    *,
    on_facts: Callable[[Facts], None] = lambda _: None,
    on_snapshot: Callable[[], None] = lambda: None,
    on_opened: Callable[[], None] = lambda: None,
) -> None:
    with opened_store("ads", config, place, SystemClock()) as recovery:
        on_opened()
        flow = _build(config, _Source(config, place, feed_of, on_snapshot), on_facts)
        spare_garbage_collection()
        execute(flow, recovery, config.recovery.epoch_ms, place)


class _Given:
    """Chunks that are in memory, as fast as they are taken."""

    def __init__(self, items: Sequence[Item], is_held: Callable[[int], bool] = lambda _: False) -> None:
        self._items, self._is_held, self._next = items, is_held, 0

    def poll(self) -> Sequence[Item]:
        if self._next >= len(self._items):
            raise StopIteration
        if self._is_held(self._next):
            return []
        batch = self._items[self._next : self._next + _BATCH]
        self._next += len(batch)
        return batch


def _keyed(made: Iterable[Chunk]) -> list[Item]:
    return [(KeyGroup(one.partition, one.group).key, one) for one in made]


# A store of many boxes, and what it takes to resume from it --------------------------------------------------------


def make(config: Config, boxes: int) -> None:
    """A store with the state of all boxes, as a clean stop leaves it."""
    warm_up()
    items = _keyed(chunks(boxes, boxes * EVENTS_PER_BOX, config.events.partitions, config.events.groups_per_partition))
    gc.freeze()
    _run(config, place_of(config), lambda _: _Given(items))


class _One:
    """A single new event, and the end once it is through."""

    def __init__(self, item: Item) -> None:
        self._item: list[Item] = [item]
        self.is_through = False

    def poll(self) -> Sequence[Item]:
        if self.is_through:
            raise StopIteration
        found, self._item = self._item, []
        return found


def resume(config: Config, boxes: int, started_s: float) -> Resumed:
    """As a worker starts: imports, store, machine code, flow; until the first event of a known box is applied."""
    for name in ("datastreamx.cli.app", "datastreamx.cli.supervise", "flows.ads", "flows.ports.ads"):
        importlib.import_module(name)
    imported_s = time.monotonic()
    held_mib = resident_mib()
    opened_s, compiled_s, first_s, grown_mib = 0.0, 0.0, 0.0, 0.0
    states = _Timed(decode_snapshot)
    at_ms = START_MS + (EVENTS_PER_BOX + 1) * INTERVAL_MS
    # A store that is resumed from again knows the event of the last time: with the same seq it would be a duplicate.
    event = Heartbeat(event_id="new", box_id=box_id(0), seq=int(started_s * 1_000), event_time_ms=at_ms)
    key = event.box_id.encode()
    group = group_of(key, config.events.groups_per_partition)
    feed = _One(_keyed([Chunk(0, group, [boxes * EVENTS_PER_BOX], [at_ms], [key], [encode_event(event)])])[0])

    def on_opened() -> None:
        nonlocal opened_s, compiled_s, held_mib
        opened_s, held_mib = time.monotonic(), held_mib - resident_mib()
        warm_up()
        compiled_s, held_mib = time.monotonic(), held_mib + resident_mib()
        states.reset()

    def on_facts(_: Facts) -> None:
        nonlocal first_s, grown_mib
        if not feed.is_through:
            first_s, feed.is_through = time.monotonic(), True
            grown_mib = resident_mib() - held_mib

    with patch.object(step, "decode_snapshot", states):
        _run(config, place_of(config), lambda _: feed, on_facts=on_facts, on_opened=on_opened)
    return Resumed(
        imports_s=imported_s - started_s,
        compiled_s=compiled_s - opened_s,
        store_s=opened_s - imported_s,
        bytewax_s=first_s - compiled_s - states.sum_s,
        states_s=states.sum_s,
        grown_mib=grown_mib,
        peak_mib=Stopwatch().effort(1).peak_mib,
    )


class _Timed:
    """A function, and how long all its calls took together."""

    def __init__(self, function: Callable[..., object]) -> None:
        self._function, self.sum_s, self.sum_bytes = function, 0.0, 0

    def reset(self) -> None:
        """Forget what was."""
        self.sum_s, self.sum_bytes = 0.0, 0

    def __call__(self, *arguments: object) -> object:
        begin_s = time.perf_counter()
        found = self._function(*arguments)
        self.sum_s += time.perf_counter() - begin_s
        if isinstance(found, bytes):
            self.sum_bytes += len(found)
        return found


# Steady traffic --------------------------------------------------------------------------------------------------


class _Paced:
    """Events at the moments when Kafka hands them out; a poll returns what has arrived, by key group.

    Args:
        arrivals: (when, from the start in ms; partition; group; offset; event), in this order.
    """

    def __init__(self, arrivals: Sequence[tuple[int, int, int, int, bytes, bytes]]) -> None:
        self._arrivals, self._next = arrivals, 0
        self._begin_s: float | None = None
        self._waiting: dict[tuple[int, int], deque[tuple[Chunk, float]]] = {}
        self.most_cpu_s = self._cpu_s = 0.0

    def poll(self) -> Sequence[Item]:
        """What is due."""
        now_s, before_s, self._cpu_s = time.monotonic(), self._cpu_s, time.thread_time()
        self.most_cpu_s = max(self.most_cpu_s, self._cpu_s - before_s)
        if self._begin_s is None:
            self._begin_s = now_s
        if self._next >= len(self._arrivals):
            raise StopIteration
        begin_s, now_ms = self._begin_s, (now_s - self._begin_s) * 1000
        made: dict[tuple[int, int], Chunk] = {}
        end = min(len(self._arrivals), self._next + _POLL_RECORDS)
        while self._next < end:
            due_ms, partition, group, offset, key, value = self._arrivals[self._next]
            if due_ms > now_ms:
                break
            chunk = made.get((partition, group))
            if chunk is None:
                chunk = made[partition, group] = Chunk(partition, group, [], [], [], [])
                self._waiting.setdefault((partition, group), deque()).append((chunk, begin_s + due_ms / 1000))
            chunk.offsets.append(offset)
            chunk.timestamps_ms.append(START_MS + EVENTS_PER_BOX * INTERVAL_MS + due_ms)
            chunk.keys.append(key)
            chunk.values.append(value)
            self._next += 1
        return _keyed(made.values())

    def wait_s(self, facts: Facts, rows: EventRows) -> float:
        """How long the first event of the chunk has waited that led to these facts."""
        newest, waiting = int(rows.log[In.OFFSET, -1]), self._waiting[facts.partition, facts.group]
        chunk, due_s = waiting.popleft()
        # A chunk of nothing but duplicates led to no facts.
        while chunk.offsets[-1] < newest:
            chunk, due_s = waiting.popleft()
        return time.monotonic() - due_s

    @property
    def applied(self) -> int:
        """Events so far."""
        return self._next


def _arrivals(config: Config, boxes: int, seconds: float) -> Iterator[tuple[int, int, int, int, bytes, bytes]]:
    """What the boxes send after those events that the store knows of; each event once."""
    partitions, groups = config.events.partitions, config.events.groups_per_partition
    offsets = [0] * partitions
    known, last = boxes * EVENTS_PER_BOX, None
    more = int(boxes * seconds * 1000 / INTERVAL_MS)
    for number, (timestamp_ms, event) in enumerate(events(boxes, known + more)):
        partition = int(event.box_id[4:]) % partitions
        offset = offsets[partition]
        offsets[partition] += 1
        if number >= known and event is not last:
            key = event.box_id.encode()
            due_ms = timestamp_ms - START_MS - EVENTS_PER_BOX * INTERVAL_MS
            yield (
                -(-max(0, due_ms) // _GATHER_MS) * _GATHER_MS,
                partition,
                group_of(key, groups),
                offset,
                key,
                encode_event(event),
            )
        last = event


def pause(config: Config, boxes: int, seconds: float) -> Paused:
    """Resume, and live through as many epochs as `seconds` have."""
    warm_up()
    feed = _Paced([*_arrivals(config, boxes, seconds)])
    gc.freeze()
    pauses_ms, cpus_ms, snapshots_ms, snapshot_bytes, waits_ms = [], [], [], [], []
    longest_s = 0.0
    snapshots = _Timed(encode_snapshot)
    watch: Stopwatch | None = None

    def on_facts(facts: Facts) -> None:
        nonlocal longest_s
        if isinstance(facts.rows, EventRows):
            wait_s = feed.wait_s(facts, facts.rows)
            waits_ms.append(wait_s * 1000)
            longest_s = max(longest_s, wait_s)

    def on_snapshot() -> None:
        # The source is asked first: what is summed up here is of the epoch before, whose end fell into this one.
        nonlocal longest_s, watch
        if watch is not None:
            pauses_ms.append(longest_s * 1000)
            cpus_ms.append(feed.most_cpu_s * 1000)
            snapshots_ms.append(snapshots.sum_s * 1000)
            snapshot_bytes.append(snapshots.sum_bytes)
        longest_s = feed.most_cpu_s = 0.0
        snapshots.reset()
        watch = watch or Stopwatch()

    with patch.object(step, "encode_snapshot", snapshots):
        _run(config, place_of(config), lambda _: feed, on_facts=on_facts, on_snapshot=on_snapshot)
    if watch is None or len(pauses_ms) < 2:  # noqa: PLR2004  the first is the start, the last is the end
        raise SystemExit("too short: no epoch has passed")
    effort = watch.effort(feed.applied)
    # In the first epochs the process takes memory that it has later.
    return Paused(
        pauses_ms=pauses_ms[1:],
        cpus_ms=cpus_ms[1:],
        snapshots_ms=snapshots_ms[1:],
        snapshot_bytes=snapshot_bytes[1:],
        waits_ms=sorted(waits_ms)[len(waits_ms) // 2],
        events=feed.applied,
        cpu_share=effort.cpu_s / effort.wall_s,
    )


# Memory ----------------------------------------------------------------------------------------------------------


def memory(config: Config, boxes: int) -> Effort:
    """States of all boxes in this process, grown event by event; `more` has the bytes of each box."""
    warm_up()
    pseudonym = partial(identity.box_key, config.privacy.box_key_secret.reveal().encode())
    states: dict[tuple[int, int], KeyGroupState] = {}

    def apply(chunk: Chunk) -> None:
        place = KeyGroup(chunk.partition, chunk.group)
        if place not in states:
            states[place] = KeyGroupState(place, config.viewing, config.topics.events, pseudonym)
        states[place].process(decode_chunk(chunk, config.topics.events, config.events.max_clock_skew_ms))

    gc.collect()
    before_mib, watch = resident_mib(), Stopwatch()
    for chunk in _in_turn(config, boxes):
        apply(chunk)
    gc.collect()
    grown = (resident_mib() - before_mib) * 2**20
    if sum(map(len, states.values())) != boxes:
        raise SystemExit(f"{sum(map(len, states.values())):,} boxes have state, not {boxes:,}")
    return watch.effort(boxes * EVENTS_PER_BOX, {"bytes_per_box": grown / boxes})


def _in_turn(config: Config, boxes: int, records: int = 50) -> Iterator[Chunk]:
    """A tune, a display and a heartbeat of each box. Made one by one: a list of them would be memory, too."""
    partitions, groups = config.events.partitions, config.events.groups_per_partition
    open_chunks: dict[tuple[int, int], Chunk] = {}
    for turn in range(EVENTS_PER_BOX):
        for number in range(boxes):
            event = _of_turn(turn, number, START_MS + turn * INTERVAL_MS + number * INTERVAL_MS // boxes)
            key = event.box_id.encode()
            place = (number % partitions, group_of(key, groups))
            chunk = open_chunks.setdefault(place, Chunk(*place, [], [], [], []))
            chunk.offsets.append(turn * boxes + number)
            chunk.timestamps_ms.append(event.event_time_ms)
            chunk.keys.append(key)
            chunk.values.append(encode_event(event))
            if len(chunk.offsets) >= records:
                yield open_chunks.pop(place)
    yield from open_chunks.values()


def _of_turn(turn: int, number: int, event_time_ms: int) -> BoxEvent:
    event_id, box, seq = f"{number:07d}-{turn}", box_id(number), turn + 1
    if turn == 0:
        channel = f"ch{number % 200}"
        return Tune(event_id=event_id, box_id=box, seq=seq, event_time_ms=event_time_ms, channel_id=channel)
    if turn == 1:
        push, ad = f"{number:024x}", f"ad-{number % 500}"
        return AdShown(
            event_id=event_id,
            box_id=box,
            seq=seq,
            event_time_ms=event_time_ms,
            push_id=push,
            ad_id=ad,
            shown_ms=15_000,
        )
    return Heartbeat(event_id=event_id, box_id=box, seq=seq, event_time_ms=event_time_ms)


# Several at a time -----------------------------------------------------------------------------------------------


class _Gate:
    """Opens when all processes have come; each leaves a file."""

    def __init__(self, directory: Path, ordinal: int, count: int) -> None:
        self._files = [directory / f"arrived-{number}" for number in range(count)]
        self._own = self._files[ordinal]
        self._is_open = False

    def is_closed(self) -> bool:
        """After this process has come, too."""
        if not self._is_open:
            self._own.touch()
            self._is_open = all(file.exists() for file in self._files)
        return not self._is_open


def rate(config: Config, boxes: int, count: int, ordinal: int, gate: _Gate) -> Raced:
    """The events of this process's partitions, as fast as it can; clocks start when all processes are warm."""
    place = place_of(config, ordinal)
    made = chunks(boxes, count, config.events.partitions, config.events.groups_per_partition)
    watch: Stopwatch | None = None
    begin_s, units = 0.0, 0

    def feed_of(layout: Layout) -> Feed:
        nonlocal units
        items = _keyed(one for one in made if one.partition in layout.partitions)
        warm = int(len(items) * WARM_UP_SHARE) // _BATCH * _BATCH
        units += sum(len(chunk.values) for _, chunk in items[warm:])

        def is_held(next_item: int) -> bool:
            nonlocal watch, begin_s
            if next_item < warm or watch is not None:
                return False
            if gate.is_closed():
                return True
            begin_s, watch = time.monotonic(), Stopwatch()
            return False

        return _Given(items, is_held)

    warm_up()
    gc.freeze()
    _run(config, place, feed_of)
    if watch is None:
        raise SystemExit("this process had nothing to do: more processes than source parts")
    return Raced(begin_s, time.monotonic(), watch.effort(units))


# Command ---------------------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["make", "resume", "pause", "memory", "rate"])
    parser.add_argument("--directory", type=Path, required=True, help="of the recovery stores")
    parser.add_argument("--boxes", type=int, required=True)
    parser.add_argument("--partitions", type=int, default=PARTITIONS)
    parser.add_argument("--groups", type=int, default=GROUPS)
    parser.add_argument("--epoch-ms", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="pause: how long")
    parser.add_argument("--started", type=float, default=0.0, help="resume: monotonic clock when this was started")
    parser.add_argument("--cells", type=int, default=1)
    parser.add_argument("--addresses", default="", help="rate: of a cluster, instead of cells")
    parser.add_argument("--ordinal", type=int, default=0)
    parser.add_argument("--count", type=int, default=1, help="rate: processes that start together")
    parser.add_argument("--events", type=int, default=0, help="rate: of all boxes")
    return parser.parse_args(arguments)


def config_of(options: argparse.Namespace) -> Config:
    """As an operator would write it."""
    addresses = [address for address in options.addresses.split(",") if address]
    scaling = f'mode = "cluster"\naddresses = {addresses}' if addresses else f"cells = {options.cells}"
    return unconnected(
        CONFIG.format(
            partitions=options.partitions,
            groups=options.groups,
            directory=options.directory,
            epoch_ms=options.epoch_ms,
            scaling=scaling.replace("'", '"'),
        )
    )


def main() -> int:
    """One task; what it found goes to standard output as JSON."""
    options = parse()
    config = config_of(options)
    found: object = None
    match options.task:
        case "make":
            make(config, options.boxes)
        case "resume":
            found = resume(config, options.boxes, options.started)
        case "pause":
            found = pause(config, options.boxes, options.seconds)
        case "memory":
            found = memory(config, options.boxes)
        case _:
            gate = _Gate(options.directory, options.ordinal, options.count)
            found = rate(config, options.boxes, options.events, options.ordinal, gate)
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
