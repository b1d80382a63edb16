"""The recovery stores: no room, damaged, older than they should be, shared out anew."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from datastreamx.errors import DamagedStoreError
from flows.recovery.store import StoreContents, read_store
from simulator.processes import Child
from tests.chaos.crew import Spot, name_of
from tests.chaos.faults.fault import Struck
from tests.chaos.rig import Rig
from tests.integration.pipeline import environment

FULL_S = (1.0, 4.0)
MOST_CELLS = 3
NO_ROOM = "disk|room|I/O|[Nn]o space"
"""Last words of a flow whose snapshot could not be written."""

NEWER_EPOCHS = 4
NEWER_WITHIN_S = 20.0

_REFUSED_WITHIN_S = 40.0


@dataclass(frozen=True)
class DiskFull:
    """No room for a snapshot for a while: the flows stop or wait, and go on when there is room."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        disk = rig.disk
        assert disk is not None
        seconds = rng.uniform(*FULL_S)
        rig.crew.excuse(seconds + 30.0, NO_ROOM)
        disk.fill()
        rig.weather.begin("disk", "full", seconds, disk.free)
        return Struck("disk", f"full for {seconds:.1f} s")


@dataclass(frozen=True)
class DamagedStore:
    """A store is damaged while its flow is down. It has to be refused; then the good copy is put back."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        spot = _keeper(rig, rng)
        parts = sorted(rig.crew.store(spot).glob("part-*.sqlite3"))
        how = rng.choice(("truncated", "bit-flipped", "missing"))

        def damage() -> None:
            part = rng.choice(parts)
            data = bytearray(part.read_bytes())
            if how == "truncated":
                part.write_bytes(data[: len(data) * 2 // 3])
            elif how == "missing":
                part.unlink()
            else:
                for _ in range(64):
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                part.write_bytes(data)

        return Struck(name_of(spot), f"{how}, {_try_with(rig, spot, damage)}")


@dataclass(frozen=True)
class StaleStore:
    """A store is replaced by an older copy of itself while its flow is down: likewise."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        crew, spot = rig.crew, _keeper(rig, rng)
        store, old = crew.store(spot), rig.directory / "old" / name_of(spot)
        crew.await_reading(*_together(rig, spot))
        crew.kill(*_together(rig, spot))
        _copy(store, old)
        crew.start(*_together(rig, spot))
        crew.await_reading(*_together(rig, spot))
        # So many snapshots later the broker has heard of one that the copy does not hold.
        now = crew.epoch(spot)
        crew.wait(lambda: crew.epoch(spot) >= now + NEWER_EPOCHS, NEWER_WITHIN_S)
        crew.rest(rng.uniform(0.5, 1.5))

        def swap() -> None:
            for path in [*store.glob("part-*")]:
                path.unlink()
            for path in old.glob("part-*"):
                shutil.copy2(path, store)

        return Struck(name_of(spot), _try_with(rig, spot, swap))


@dataclass(frozen=True)
class Rescale:
    """The flows are stopped, their stores shared out to another number of cells, and started again.

    Args:
        is_killed: The command is killed in between, and given once more.
    """

    is_killed: bool = False

    def strike(self, rig: Rig, rng: Random) -> Struck:
        crew, pipeline = rig.crew, rig.pipeline
        before = pipeline.cells
        after = rng.choice([cells for cells in range(1, MOST_CELLS + 1) if cells != before])
        crew.resume_all()
        crew.await_reading(*crew.spots)
        crew.stop(*crew.spots)
        met = ""
        if self.is_killed:
            argv = [sys.executable, "-m", "datastreamx.cli", "rescale", "--cells", str(after)]
            argv += ["--config", str(pipeline.config_path)]
            command = Child("rescale", argv, log_path=rig.directory / "rescale.log", env=environment())
            command.start()
            crew.rest(rng.uniform(0.2, 1.2))
            met = "killed in between" if command.poll() is None else "killed too late"
            command.kill()
        pipeline.rescale(after)
        crew.start(*crew.spots)
        return Struck(f"{before} cells to {after}", met)


def _keeper(rig: Rig, rng: Random) -> Spot:
    """A process that has a store."""
    flow, ordinal = rig.crew.pick(rng)
    return (flow, ordinal if rig.options.mode == "cells" else 0)


def _together(rig: Rig, spot: Spot) -> list[Spot]:
    return [spot] if rig.options.mode == "cells" else rig.crew.of(spot[0])


def _try_with(rig: Rig, spot: Spot, spoil: Callable[[], None]) -> str:
    """Spoil the store of `spot` while it is down, and look what becomes of its start.

    It may be used if what it holds is still the same: bits may have been flipped where nothing is stored, and what was
    cut off may stand in the write-ahead log.
    """
    crew, store, good = rig.crew, rig.crew.store(spot), rig.directory / "good" / name_of(spot)
    together = _together(rig, spot)
    crew.kill(*together)
    _copy(store, good)
    spoil()
    is_same = _holds(rig, store) == _holds(rig, good)
    words = crew.try_to_start(*together, within_s=_REFUSED_WITHIN_S)
    if words is None:
        # Its outputs are out: with the good copy it would be as wrong.
        if is_same:
            return "used, for it holds the same"
        rig.used_stores.append(f"{name_of(spot)} has started with a spoilt store")
        return "used"
    crew.kill(*together)
    # What was refused is set aside, with a note that keeps the flow from starting.
    store.with_name(f"{store.name}.refused.json").unlink(missing_ok=True)
    _copy(good, store)
    crew.start(*together)
    return f"refused: {words}"


def _holds(rig: Rig, store: Path) -> StoreContents | None:
    """What a flow would resume from, read from a copy; nothing if it cannot be read."""
    copy = rig.directory / "look"
    _copy(store, copy)
    try:
        return read_store(copy)
    except DamagedStoreError:
        return None


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
