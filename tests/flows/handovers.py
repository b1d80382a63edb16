"""A deployment whose cells have a volume each and one folder together, without processes and without Kafka."""

from __future__ import annotations

import pickle
import random
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from datastreamx.clock import SystemClock
from datastreamx.config import Config
from datastreamx.errors import StaleStoreError
from datastreamx.place import Place
from flows.prepare import Prepare, PrepareReport, prepare
from flows.recovery.handed_rescale import rescale_handed_over
from flows.recovery.handover import Copy, Handover, leave
from flows.recovery.manifest import manifest_of, write_manifest
from flows.recovery.opening import opened_store
from flows.recovery.rescale import Rescale, RescaleReport
from flows.recovery.reshard import Account, Mode, Store, account
from flows.recovery.restore import positions_in
from flows.recovery.store import read_store
from flows.recovery.swap import OnStep
from flows.recovery.writer import write_store
from flows.replaying.run import Summary
from sources.kafka.positions import Positions, merge, read_positions
from sources.kafka.witness import Evidence, Lineage, complaint
from tests.flows import stores as made_up

PARTITIONS = 6
SNAPSHOTS = 3


class KilledError(Exception):
    """The process died."""


def killed_after(steps: int) -> OnStep:
    """Lets so many steps pass."""
    left = steps

    def on_step(step: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError(step)

    return on_step


class Steps(list[str]):
    """Takes down what was done."""

    def __call__(self, step: str) -> None:
        self.append(step)


@dataclass
class Deployment:
    """One flow.

    Attributes:
        directory: Volumes and the folder of the handover go below it.
        cells: That the configuration says.
        proven: What Kafka knows, by flow and partition.
        rebuilt: Places whose store was replayed.
    """

    directory: Path
    flow: str
    cells: int
    mode: Mode = "cells"
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    proven: dict[tuple[str, int], Evidence] = field(default_factory=dict)
    rebuilt: list[int] = field(default_factory=list)
    _now: datetime = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    @property
    def now(self) -> datetime:
        """Another moment every time."""
        self._now += timedelta(seconds=7)
        return self._now

    @property
    def handover(self) -> Handover:
        return Handover(self.directory / "handover", self.flow)

    def volume(self, ordinal: int) -> Path:
        return self.directory / f"volume-{ordinal}"

    def store(self, ordinal: int) -> Path:
        return self.volume(ordinal) / self.place(ordinal).store_name(self.flow)

    def place(self, ordinal: int) -> Place:
        return Place(self.mode, ordinal, self.cells)

    def config(self, folder: Path, *, handover: bool = True) -> Config:
        extra = f'handover = "{self.directory / "handover"}"\n' if handover else ""
        scaling = f"cells = {self.cells}" if self.mode == "cells" else 'mode = "cluster"\naddresses = ["a:1", "b:1"]'
        return made_up.settings(PARTITIONS, f'[recovery]\ndirectory = "{folder}"\n{extra}[scaling]\n{scaling}\n')

    # What Kafka tells -------------------------------------------------------------------------------------------------

    def ask(self, _config: Config, flow: str, positions: Positions) -> str | None:
        complaints = (
            complaint(held, self.proven[flow, partition])
            for (_, partition), held in sorted(positions.held.items())
            if (flow, partition) in self.proven
        )
        return next((told for told in complaints if told is not None), None)

    def has_run(self, _config: Config, flow: str, place: Place) -> bool:
        return any((flow, partition) in self.proven for partition in place.partitions(PARTITIONS))

    # What operators do ------------------------------------------------------------------------------------------------

    def prepare(
        self, ordinal: int, on_step: OnStep = lambda _: None, *, ends: bool = True, handover: bool = True
    ) -> PrepareReport:
        def rebuild() -> Summary:
            if ends:
                self.write(ordinal, {})
                (self.store(ordinal).with_name(f"{self.store(ordinal).name}.refused.json")).unlink(missing_ok=True)
            self.rebuilt.append(ordinal)
            return SUMMARY if ends else msgspec.structs.replace(SUMMARY, is_finished=False)

        config = self.config(self.volume(ordinal), handover=handover)
        wanted = Prepare(config, self.flow, self.place(ordinal), rebuild, ask=self.ask, has_run=self.has_run)
        return prepare(wanted, self.now, on_step)

    def start(self, ordinal: int) -> None:
        """What a process does before it goes on: the guard's checks, Kafka as witness."""
        config = self.config(self.volume(ordinal))
        with opened_store(self.flow, config, self.place(ordinal), SystemClock()):
            parts = positions_in(read_store(self.store(ordinal)), self.flow)
            problem = self.ask(config, self.flow, merge(parts)) if parts else None
            if problem is None and not parts and self.has_run(config, self.flow, self.place(ordinal)):
                problem = "there is no state"
            if problem is not None:
                raise StaleStoreError(problem)

    def go_on(self, ordinal: int, *, proven: int = SNAPSHOTS - 1) -> None:
        """Some snapshots, of which Kafka learns so many: of the last one of a clean stop never."""
        changed: list[tuple[bytes, str, str]] = []
        for (step_id, key), value in self.rows(ordinal).items():
            if value is None or step_id not in {"ads.events", f"{self.flow}.topics"}:
                continue
            old = read_positions(value)
            changed.append((pickle.dumps(_further(old, SNAPSHOTS).seal()), step_id, key))
            for number, lineage in old.lineages.items():
                offset = _further(old, proven).offsets[old.layout.topics[0]][number]
                self.proven[self.flow, number] = Evidence(offset, lineage.id, lineage.taken + proven)
        with closing(sqlite3.connect(self.store(ordinal) / "part-0.sqlite3")) as part, part:
            part.executemany("UPDATE snaps SET ser_change = ? WHERE step_id = ? AND state_key = ?", changed)

    def leave(self, ordinal: int, on_step: OnStep = lambda _: None) -> Copy:
        return leave(self.config(self.volume(ordinal)), self.flow, self.place(ordinal), self.now, on_step)

    def reshard(
        self, cells: int, on_step: OnStep = lambda _: None, *, dry_run: bool = False, mode: Mode = "cells"
    ) -> RescaleReport:
        scratch = self.directory / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        wanted = Rescale(self.config(scratch), mode, cells, dry_run=dry_run)
        return rescale_handed_over(wanted, self.now, on_step, ask=self.ask)

    def up(self, ordinals: Iterable[int] | None = None) -> list[PrepareReport]:
        """Start cells; those without a store begin with one."""
        reports = []
        for ordinal in range(self.cells) if ordinals is None else ordinals:
            reports.append(self.prepare(ordinal))
            self.start(ordinal)
            if not self.rows(ordinal):
                made = made_up.store(self.flow, self.config(self.volume(ordinal)), self.place(ordinal), self.rng)
                self.write(ordinal, dict(made.rows))
            self.go_on(ordinal)
        return reports

    def down(self) -> None:
        """Stop all cells cleanly."""
        for ordinal in range(self.cells):
            self.leave(ordinal)

    def scale(self, cells: int) -> list[PrepareReport]:
        """All of it."""
        self.down()
        assert self.reshard(cells).state == "done"
        self.cells = cells
        return self.up()

    # What there is ----------------------------------------------------------------------------------------------------

    def rows(self, ordinal: int) -> dict[tuple[str, str], bytes | None]:
        return {key: row.value for key, row in read_store(self.store(ordinal)).by_key.items()}

    def account(self) -> Account:
        """Of all cells together."""
        config = self.config(self.volume(0))
        stores = [Store(self.place(ordinal), self.rows(ordinal)) for ordinal in range(self.cells)]
        return account(stores, made_up.terms(config))

    def write(self, ordinal: int, rows: dict[tuple[str, str], bytes | None]) -> None:
        """Replace the content of a store."""
        store, built = self.store(ordinal), self.directory / "built"
        write_store(built, self.flow, {key: value for key, value in rows.items() if value is not None})
        store.mkdir(parents=True, exist_ok=True)
        for part in built.iterdir():
            shutil.copyfile(part, store / part.name)
        shutil.rmtree(built)
        write_manifest(store, manifest_of(self.flow, self.config(self.volume(ordinal)), self.place(ordinal)))

    def lose(self, ordinal: int) -> None:
        shutil.rmtree(self.volume(ordinal))


def _further(old: Positions, snapshots: int) -> Positions:
    return msgspec.structs.replace(
        old,
        offsets={topic: {p: offset + snapshots for p, offset in by.items()} for topic, by in old.offsets.items()},
        lineages={p: Lineage(id=one.id, taken=one.taken + snapshots) for p, one in old.lineages.items()},
    )


SUMMARY = Summary(
    result="recovery store",
    is_finished=True,
    is_resumed=False,
    from_ms=None,
    until_ms=1,
    events_read=0,
    rows={},
    decisions_reused=0,
    decisions_expired=0,
    dead_letters=0,
    seconds=1.0,
    events_per_second=0,
    caveats=[],
)
