"""One history: a seed makes a world, faults and a schedule; the product runs through it until all has come to rest."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import pyarrow as pa
import pyarrow.compute as pc
import structlog
from prometheus_client.metrics import MetricWrapperBase

import operators.async_map.step
import operators.bidding.house
import operators.notices.step
import operators.rollups.step
import sources.kafka.reader
from datastreamx.errors import StateMismatchError
from datastreamx.interpreter import spare_garbage_collection
from datastreamx.place import Place
from flows.recovery.reshard import Store as StoreToShare
from flows.recovery.reshard import Terms, reshard
from sinks.bigquery.transport import BadRow
from tests.simulation.actors import Fleet, Receivers
from tests.simulation.bigquery import SimulatedBigQuery
from tests.simulation.engine import Store
from tests.simulation.flows import CONFIG, FLOWS, Cell, Surroundings
from tests.simulation.kafka import Broker
from tests.simulation.size import class_of, draw_events, scaled
from tests.simulation.supervised import PHASES, Crash, Supervised
from tests.simulation.verdict import GOES_ON, Findings, judge
from tests.simulation.world import Moment, VirtualTime, World

AFTERMATH_MS = (1_000, 4_000, 12_000, 30_000)
"""How long faults go on after the last event."""

ROUNDS_MAX = 6_000
"""A history that has not come to rest by then is stuck; they take a few hundred."""


def _bad_rows(table: str, rows: pa.RecordBatch) -> tuple[BadRow, ...]:
    if table != "box_events":
        return ()
    spoiled = pc.and_(pc.ends_with(rows.column("event_id"), "77"), pc.equal(rows.column("type"), "heartbeat"))
    return tuple(BadRow(index, "spoiled") for index in pc.indices_nonzero(spoiled).to_pylist())


@dataclass
class Outcome:
    """How a history ended.

    Attributes:
        broken: Invariants that do not hold, each with what is wrong.
        seen: What happened, by kind.
    """

    seed: int
    broken: Findings
    seen: Counter[str]
    faults: list[Moment]
    trace: list[Moment] | None


Plant = Callable[["History"], AbstractContextManager[object]]
"""Breaks the product for as long as it is entered; see `plants`."""


@dataclass(frozen=True)
class Options:
    """How a history is run.

    Attributes:
        crashes: Fewest and most that are planned in a history without events.
        events_per_crash: For every so many events one more may be planned.
        phases: In which processes die; each as likely as it is often named.
        epochs_ms: Lengths of epochs in a large history; each incarnation of a cell draws one.
        plant: A bug.
        with_trace: Keep every step, and let errors of the product through.
    """

    crashes: tuple[int, int] = (1, 2)
    events_per_crash: int = 20
    phases: tuple[str, ...] = ("any", "any", *PHASES, "snapshot", "commit", "waiting")
    epochs_ms: tuple[int, ...] = (500, 3_000, 8_000, 15_000)
    plant: Plant | None = None
    with_trace: bool = False


class History:
    """Everything of one seed. Call `run` once, within `virtual_time`."""

    def __init__(self, seed: int, time: VirtualTime, options: Options = Options()) -> None:
        self._options = options
        self.world = World(seed, with_trace=options.with_trace)
        time.world = self.world
        time.sleep = self._product_sleeps
        self._random = self.world.random("schedule")
        topics, partitions = CONFIG.topics, CONFIG.events.partitions
        self.broker = Broker(
            self.world,
            {topics.events: partitions, topics.decisions: partitions, topics.facts: partitions, topics.dead_letters: 1},
        )
        self.bigquery = SimulatedBigQuery(self.world, _bad_rows)
        self.receivers = Receivers(self.world, CONFIG.aggregators)
        self._around = Surroundings(self.world, self.broker, self.bigquery, self.receivers)
        self._events = draw_events(self._random)
        self.world.seen[class_of(self._events)] += 1
        self._epochs_ms = tuple(scaled(longest_ms, self._events) for longest_ms in options.epochs_ms)
        self._fleet = Fleet(self.world, self.broker, CONFIG, self._events)
        # Like a swarm: not every history has everything, so that each thing has room to go wrong in its own way.
        self.flows = FLOWS if self._random.random() < 0.4 else ("ads", "warehouse")
        self.on_start: list[Callable[[Supervised], None]] = []
        self.cells: list[Supervised] = []
        for flow in self.flows:
            for place in _places(self._random.choice((1, 1, 1, 2))):
                self._add((flow, place.ordinal), place, Store())
        self._plan_crashes()
        is_shared_out = self._random.random() < 0.4
        self._reshard_round = self._random.randint(10, scaled(150, self._events)) if is_shared_out else -1

    def run(self) -> Outcome:
        """Until all has come to rest."""
        plant = self._options.plant
        world, broken = self.world, Findings()
        try:
            with plant(self) if plant is not None else nullcontext():
                while not self._fleet.is_done:
                    self._round()
                    self._trouble()
                # What was sent last is on its way through the flows, and things go wrong there too.
                calm_ms = world.clock.now_ms() + self._random.choice(AFTERMATH_MS)
                while world.clock.now_ms() < calm_ms:
                    self._round()
                    self._trouble()
                world.is_calm = True
                self.broker.down_until_ms = 0
                world.tell("world", "no more faults from here on")
                self._rest()
            broken = judge(self)
        except Exception as error:
            if self._options.with_trace and plant is None:
                raise
            # Whatever the product raises is a finding.
            broken.add(GOES_ON, f"{type(error).__name__}: {error}")
        return Outcome(world.seed, broken, world.seen, world.faults, world.trace)

    def _add(self, cell: Cell, place: Place, store: Store) -> Supervised:
        added = Supervised(cell, place, self._around, store, self._epochs_ms, self._others_run)
        added.on_start = self.on_start
        self.cells.append(added)
        return added

    def _others_run(self) -> None:
        """While one process waits, the others go on."""
        for cell in self.cells:
            cell.run(4)

    def _product_sleeps(self, seconds: float) -> None:
        """A step of the product waits at the end of its input, in a loop. The last to have become busy is the one."""
        busy = [cell for cell in self.cells if cell.is_busy and cell.engine is not None and cell.engine.is_ending]
        busy[-1].sleep(max(1, round(seconds * 1000)))

    def _plan_crashes(self) -> None:
        """At any time of the history, and half of them soon after another: the second finds what the first has left."""
        random, (fewest, most) = self._random, self._options.crashes
        cell, since_ms = self.cells[0], -1
        for _ in range(random.randint(fewest, most + self._events // self._options.events_per_crash)):
            if since_ms < 0 or random.random() < 0.5:
                cell = random.choice(self.cells)
                # Boxes are done after about so long; what they sent is under way for some seconds more.
                since_ms = self.world.clock.now_ms() + random.randint(0, 600 * self._events + 6_000)
            self._plan_crash(cell, since_ms)
        for cell in self.cells:
            cell.crashes.sort(key=lambda crash: crash.since_ms)

    def _plan_crash(self, cell: Supervised, since_ms: int) -> None:
        random = self._random
        phase = random.choice(self._options.phases)
        if phase == "restoring":
            # Nothing is restored by a process that never died.
            cell.crashes.append(Crash("any", random.randint(1, 30), since_ms))
        latest = {"any": 50, "running": 30, "waiting": 8, "restoring": 5}.get(phase, 3)
        cell.crashes.append(Crash(phase, random.randint(1, latest), since_ms))

    def _round(self) -> None:
        random = self._random
        self.world.seen["rounds"] += 1
        self.world.elapse(self._step_ms())
        for cell in random.sample(self.cells, len(self.cells)):
            cell.run(random.choice((1, 5, 30, 100)))

    def _step_ms(self) -> int:
        """Small steps while auctions are under way, large ones while nothing is."""
        if not all(cell.process is None or cell.process.is_idle for cell in self.cells):
            return self._random.choice((10, 60, 150, 400))
        if any(cell.engine is not None and cell.engine.has_work for cell in self.cells):
            return self._random.choice((0, 30, 300, 600))
        now_ms, next_ms = self.world.clock.now_ms(), self.world.next_ms
        return min(2_000, max(1, (next_ms or now_ms + 500) - now_ms))

    def _trouble(self) -> None:
        """Now and then something happens that is no crash of ours."""
        random, world = self._random, self.world
        self._reshard_round -= 1
        if self._reshard_round == 0:
            self._reshard(random.choice(self.flows))
        if random.random() > 0.02:
            return
        now_ms = world.clock.now_ms()
        cell = random.choice(self.cells)
        match random.randrange(4):
            case 0:
                self.broker.down_until_ms = now_ms + random.choice((300, 2_000, 8_000))
                world.fault("kafka", "broker down", f"for {self.broker.down_until_ms - now_ms} ms")
            case 1:
                down_ms = random.choice((500, 3_000, 12_000))
                self.bigquery.fail_until(now_ms + down_ms, random.choice(("503", "429")))
                world.fault("bigquery", "outage", f"for {down_ms} ms")
            case 2:
                if cell.process is not None:
                    cell.process.client.fail_one()
            case _:
                cell.stop()

    def _reshard(self, flow: str) -> None:
        """Share the stores of a flow out to another number of cells, as `datastreamx rescale` does."""
        old = [cell for cell in self.cells if cell.cell[0] == flow]
        how = self._end_all(old)
        places = _places(2 if len(old) == 1 else 1)
        terms = Terms(CONFIG.events.partitions, CONFIG.topics.decisions)
        try:
            made = reshard([StoreToShare(cell.place, cell.store.values) for cell in old], places, terms)
        except StateMismatchError as error:
            # As it must: a cell that has never taken a snapshot cannot be shared out.
            self.world.tell(flow, f"is not shared out: {error}")
            self.world.seen["re-shards refused"] += 1
            for cell in old:
                cell.is_held = False
            return
        self.world.fault(flow, "re-shard", f"{len(old)} -> {len(places)}, after {how}")
        self.cells = [cell for cell in self.cells if cell not in old]
        added = [
            self._add((flow, place.ordinal), place, Store(dict(rows))) for place, rows in zip(places, made, strict=True)
        ]
        for cell in old:
            self._random.choice(added).crashes += cell.crashes

    def _end_all(self, cells: list[Supervised]) -> str:
        """Stop or kill cells, and keep them down; says how."""
        is_clean = self._random.random() < 0.5
        for cell in cells:
            cell.is_held = True
            if is_clean:
                cell.stop()
        for _ in range(ROUNDS_MAX):
            if all(cell.engine is None for cell in cells):
                break
            self._round()
            for cell in cells:
                if not is_clean:
                    cell.kill()
        for cell in cells:
            cell.store.open()
        return "clean stops" if is_clean else "kills"

    def _rest(self) -> None:
        """Let everything come to rest: nothing may be left to do, whatever happened before."""
        progress, epochs = self._progress(), self._epochs()
        for _ in range(ROUNDS_MAX):
            self._round()
            if progress != self._progress() or not all(cell.is_at_rest for cell in self.cells):
                progress, epochs = self._progress(), self._epochs()
            # What happened last is durable two epochs later, and has been flushed if it ever will be.
            elif all(now >= then + 2 for now, then in zip(self._epochs(), epochs, strict=True)) and self._is_settled():
                return
        left = [cell.name for cell in self.cells if not cell.is_at_rest]
        raise StuckError(f"after {ROUNDS_MAX} calm rounds {left or 'rows, increments or notices'} are not at rest")

    def _progress(self) -> tuple[int, ...]:
        """Changes whenever something arrives anywhere."""
        streams = self.bigquery.streams.values()
        return (
            self.broker.appends,
            sum(cell.process.records_read for cell in self.cells if cell.process is not None),
            sum(stream.end for stream in streams),
            sum(stream.flushed for stream in streams),
            self.receivers.heard.total(),
        )

    def _epochs(self) -> list[int]:
        return [cell.store.epoch for cell in self.cells]

    def _is_settled(self) -> bool:
        """Whether nothing is owed: no notice, no increment, no row that is not visible."""
        engines = [(cell.cell[0], cell.engine) for cell in self.cells]
        for flow, engine in engines:
            if engine is None:
                return False
            if flow == "notices":
                outboxes = [logic._outbox for logic in engine.logics("notices.send.outbox").values()]
                if any(len(outbox) or outbox.has_untold for outbox in outboxes):
                    return False
            elif flow == "warehouse":
                loaders = [part._loader for part in engine.logics("warehouse.bigquery").values()]
                if (
                    not all(logic._rollup.is_empty for logic in engine.logics("warehouse.rollups.counts").values())
                    or any(loader._batches or loader._stream.unacked_requests for loader in loaders)
                    or not all(
                        loader._ledger.is_visible(name) for loader in loaders for name in loader._ledger._streams
                    )
                ):
                    return False
        return True


class StuckError(Exception):
    """A history does not come to rest."""


def _places(count: int) -> list[Place]:
    return [Place("cells", ordinal, count) for ordinal in range(count)]


class _Unmeasured:
    """Takes the place of every labelled metric: thousands of restarts are not for this process's registry."""

    def __getattr__(self, _: str) -> Callable[..., object]:
        return lambda *_: nullcontext()


@contextmanager
def virtual_time() -> Iterator[VirtualTime]:
    """While this lasts, the product's steps read virtual time, log nothing and measure nothing."""
    time, unmeasured = VirtualTime(), _Unmeasured()
    cpus = pa.cpu_count()
    with ExitStack() as patches:
        structlog.configure(processors=[_drop])
        patches.callback(structlog.reset_defaults)
        # Arrow would wake a thread for every handful of rows.
        pa.set_cpu_count(1)
        patches.callback(pa.set_cpu_count, cpus)
        # What is loaded by now stays loaded; looking through it again and again takes a third of the time.
        patches.callback(gc.set_threshold, *gc.get_threshold())
        patches.callback(gc.unfreeze)
        spare_garbage_collection()
        # Lag is for metrics alone.
        patches.enter_context(patch.object(sources.kafka.reader, "PUBLISH_INTERVAL_S", 10.0**9))
        for module in (operators.async_map.step, operators.notices.step, operators.rollups.step):
            patches.enter_context(patch.object(module, "datetime", time))
        for module in (operators.async_map.step, operators.notices.step, operators.bidding.house):
            patches.enter_context(patch.object(module, "time", time))
        patches.enter_context(patch.object(MetricWrapperBase, "labels", lambda *_: unmeasured))
        yield time


def _drop(*_: object) -> dict[str, object]:
    raise structlog.DropEvent
