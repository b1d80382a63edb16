"""One cell and its supervisor: starts it, kills it as planned, starts it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from datastreamx.errors import StaleStoreError
from datastreamx.place import Place
from sources.kafka.positions import read_positions
from tests.simulation.engine import Engine, Store
from tests.simulation.flows import CONFIG, Cell, Process, Surroundings, graph_of
from tests.simulation.world import Killed

PHASES = ("running", "snapshot", "commit", "durable", "waiting", "restoring", "ending")
"""Where a process can die.

running: between two calls of the product. snapshot: between two snapshots of one epoch. commit: all are taken, none is
durable. durable: all are, and nobody has heard. waiting: within a call of the product that waits for a broker or
BigQuery, mostly to settle for a snapshot. restoring: while state is loaded. ending: while a clean stop is under way.
"""


@dataclass
class Crash:
    """From a time on a process is to die the `countdown`-th time that it passes a phase; `any` counts all of them."""

    phase: str
    countdown: int
    since_ms: int


class RefusedError(Exception):
    """A stale store was accepted."""


class Supervised:
    """See the module.

    Args:
        store: Where the cell resumes from.
        epochs_ms: Lengths of epochs to draw from.
        others_run: Lets the other cells go on while this one waits.
    """

    def __init__(  # noqa: PLR0917  what a cell consists of
        self,
        cell: Cell,
        place: Place,
        surroundings: Surroundings,
        store: Store,
        epochs_ms: tuple[int, ...],
        others_run: Callable[[], None],
    ) -> None:
        self.cell = cell
        self.name = f"{cell[0]}-{cell[1]}"
        self.place = place
        self.store = store
        self.crashes: list[Crash] = []
        self.process: Process | None = None
        self.engine: Engine | None = None
        self.is_held = False
        self.is_busy = False
        self.on_start: list[Callable[[Supervised], None]] = []
        self._around = surroundings
        self._world = surroundings.world
        self._epochs_ms = epochs_ms
        self._others_run = others_run
        self._random: Random = self._world.random(f"{self.name} of {place.count}")
        self._start_at_ms = 0
        self._epoch_ms = 1_000
        self._epoch_since_ms = 0
        self._epoch = 0

    def reached(self, phase: str) -> None:
        """The process is at a point where it may die; it does, if that is planned."""
        crash = self.crashes[0] if self.crashes else None
        if crash is None or self._world.is_calm or crash.phase not in {phase, "any"}:
            return
        if self._world.clock.now_ms() < crash.since_ms:
            return
        crash.countdown -= 1
        if crash.countdown > 0:
            return
        self.crashes.pop(0)
        self._world.fault(self.name, "killed", f"at phase {phase}, epoch {self.engine.epoch if self.engine else 0}")
        self._world.seen[f"crash: {phase}"] += 1
        raise Killed

    def did(self, what: str) -> None:
        """One step of the engine."""
        if self._world.trace is not None:
            self._world.tell(self.name, what)

    def run(self, turns: int) -> None:
        """Let it do some things, unless it is down, or waits for something in the middle of one."""
        if self.is_busy or self._world.clock.now_ms() < self._start_at_ms or (self.is_held and self.engine is None):
            return
        self.is_busy = True
        try:
            if self.engine is None:
                self._start()
            for _ in range(turns):
                if not self._turn():
                    break
        except Killed:
            self._die()
        finally:
            self.is_busy = False

    def stop(self) -> None:
        """Ask it to end in good order."""
        if self.process is not None and not self.process.stop.is_set():
            self._world.seen["clean stops"] += 1
            self._world.tell(self.name, "is asked to stop")
            self.process.stop.set()

    def kill(self) -> None:
        """Kill it from outside, between two of its calls."""
        if self.engine is not None and not self.is_busy:
            self._world.fault(self.name, "killed", "from outside")
            self._die()

    @property
    def is_at_rest(self) -> bool:
        """Whether it runs and has nothing left to do but wait, and to end its epochs."""
        engine, process = self.engine, self.process
        if engine is None or process is None or self.is_busy or not process.is_idle:
            return False
        return not process.has_input() and not engine.has_items

    def sleep(self, duration_ms: int) -> None:
        """The process waits; the world and the other processes do not."""
        left_ms = duration_ms
        while left_ms > 0:
            step_ms = min(left_ms, 100)
            self._world.elapse(step_ms)
            left_ms -= step_ms
            self._others_run()
            self.reached("waiting")

    def _turn(self) -> bool:
        engine, process = self.engine, self.process
        if engine is None or process is None:
            return False
        now_ms, epoch = self._world.clock.now_ms(), engine.epoch
        if epoch != self._epoch:
            self._epoch, self._epoch_since_ms = epoch, now_ms
        # Bytewax may end an epoch at any time; what is under way then is what a snapshot can get wrong. At the end of a
        # history short ones let it come to rest sooner.
        oldest_ms = self._epoch_ms if process.is_idle and not self._world.is_calm else min(300, self._epoch_ms)
        did = engine.turn(may_end_epoch=now_ms - self._epoch_since_ms >= oldest_ms)
        if engine.has_ended:
            self._world.seen["clean ends"] += 1
            self._forget(self._random.choice((0, 500)))
        return did

    def _start(self) -> None:
        self._epoch_ms = self._random.choice(self._epochs_ms)
        self.store.open()
        if self.store.history and not self._world.is_calm and self._random.random() < 0.1:
            self._try_stale_store()
        self._begin(self.store)
        self._epoch, self._epoch_since_ms = self._epoch_now(), self._world.clock.now_ms()
        self._world.seen["starts"] += 1
        self._world.tell(self.name, f"runs from epoch {self._epoch}")

    def _begin(self, store: Store) -> None:
        self.process = Process(
            self.cell, self.place, self._around, self._random, self.sleep, lambda: self.reached("waiting")
        )
        self.engine = Engine(
            graph_of(self.cell),
            self.process.ends,
            store,
            self._world.clock.now_ms,
            self._random,
            self,
            self.process.has_input,
            self._random.choice((2, 10, 100, 100)),
        )
        for hook in self.on_start:
            hook(self)
        self.engine.start()

    def _epoch_now(self) -> int:
        return self.engine.epoch if self.engine else 0

    def _try_stale_store(self) -> None:
        """Somebody puts an old copy of the store back: where the broker can tell, it must be refused."""
        age = self._random.randint(1, len(self.store.history))
        stale = Store(dict(self.store.history[-age]), self.store.epoch - age)
        if not self._is_told_apart(stale):
            self._world.seen["stale stores that nobody can tell"] += 1
            return
        self._world.fault(self.name, "stale store", f"{age} epochs old")
        try:
            self._begin(stale)
        except StaleStoreError:
            self._world.seen["stale stores refused"] += 1
        else:
            raise RefusedError(f"{self.name} went on with a store that was {age} epochs old")
        finally:
            if self.process is not None:
                self.process.kill()
            self.engine = self.process = None

    def _is_told_apart(self, stale: Store) -> bool:
        """Whether the broker was told of a later snapshot of the same lineage."""
        source = f"{self.cell[0]}.{'events' if self.cell[0] == 'ads' else 'topics'}"
        if (source, "reader-00") not in stale.values:
            owned = self.place.partitions(CONFIG.events.partitions)
            return any(group == self.cell[0] and number in owned for group, _, number in self._around.broker.committed)
        lineages = read_positions(stale.values[source, "reader-00"]).lineages
        told = [
            (lineages[partition], metadata.partition(":"))
            for (group, _, partition), (_, metadata) in self._around.broker.committed.items()
            if group == self.cell[0] and partition in lineages
        ]
        return any(lineage.id == name and int(taken) > lineage.taken for lineage, (name, _, taken) in told)

    def _die(self) -> None:
        engine, process = self.engine, self.process
        if engine is not None and engine.die(all_written=self._random.random() < 0.3):
            self._world.seen["crash: durable, and nobody heard"] += 1
        if process is not None:
            process.kill()
        self._forget(self._random.choice((0, 0, 200, 2_000, 10_000)))

    def _forget(self, down_ms: int) -> None:
        self.engine = self.process = None
        self._start_at_ms = self._world.clock.now_ms() + down_ms
