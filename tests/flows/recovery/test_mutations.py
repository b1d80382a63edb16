"""Whatever happens to a store: the next start refuses it, or resumes from exactly what it held."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from datastreamx.errors import CrashError
from datastreamx.place import Place
from flows.recovery.part import read_part
from flows.recovery.quarantine import refusal_file
from flows.recovery.store import StoreContents, part_files
from flows.recovery.writer import write_store
from tests.flows.logs import cut, draw_logs
from tests.flows.recovery.ads_store import Items, Site, settings, taken
from tests.flows.recovery.flow import copy
from tests.flows.recovery.mutations import OF_FILES, OF_FOREIGN, OF_OLD, OF_ROWS, Mutation

SEED = int(os.environ.get("DATASTREAMX_MUTATIONS_SEED", "20241123"))
MUTATIONS = int(os.environ.get("DATASTREAMX_MUTATIONS", "60"))
"""How many; they are shared out over stores of one file and of three."""


@dataclass(frozen=True)
class Museum:
    """Stores as they were at some moments, and foreign ones.

    Attributes:
        site: Where a flow finds its store.
        killed: On the disk while the flow ran, with everything that it had open; all after its first clean stop.
        stopped: After clean stops.
        foreign: Of another cell, of another flow, and of no flow yet.
    """

    site: Site
    killed: list[Path]
    stopped: list[Path]
    foreign: list[Path]

    def enter(self, exhibit: Path) -> None:
        """Put a copy where the flow finds it."""
        for path in self.site.store.parent.glob(f"{self.site.store.name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        copy(exhibit, self.site.store)


@pytest.fixture(scope="module")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Museum:
    root = tmp_path_factory.mktemp("museum")
    rng = random.Random(SEED)
    items: Items = cut(draw_logs(SEED, records=400), SEED)
    site = Site(settings(root / "live"), Place())
    killed: list[Path] = []
    stopped: list[Path] = []

    def seen(_: str) -> None:
        if stopped and rng.random() < 0.15:
            killed.append(root / f"killed-{len(killed)}" / "store")
            copy(site.store, killed[-1])

    for third in (1, 2, 3):
        site.run(items, third * len(items) // 3, seen)
        stopped.append(root / f"stopped-{third}" / "store")
        copy(site.store, stopped[-1])

    cell = Site(settings(root / "cell", cells=2), Place("cells", 1, 2))
    cell.run([item for item in items if item[1].partition == 1], 20)
    blank = Site(settings(root / "blank"), Place())
    blank.open()
    other = root / "warehouse" / "store"
    other.parent.mkdir()
    write_store(other, "warehouse", {("warehouse.topics", "reader-00"): b"x"})
    return Museum(site, killed, stopped, [cell.store, blank.store, other])


def is_settled(store: Path) -> bool:
    """Whether no epoch is half done.

    Between the commits of two epochs a key may have two rows, and rows of the unfinished epoch lie about: then a row
    that somebody edits or deletes leaves another one that is as good. Nothing but SQL does that.
    """
    parts = [read_part(path) for path in part_files(store)]
    epochs = {part.commit_epoch for part in parts}
    return len(epochs) == 1 and all(
        row.epoch in range(1, (part.commit_epoch or 0) + 1) for part in parts for row in part.rows
    )


def draw(museum: Museum, rng: random.Random) -> tuple[Path, Path, Mutation]:
    """A store, a donor that is older or foreign, and a mutation."""
    kinds = rng.choices([OF_FILES, OF_OLD, OF_FOREIGN, OF_ROWS], [5, 2, 1, 4])[0]
    stores = [*museum.killed, *museum.stopped[1:]]
    if kinds is OF_ROWS:
        stores = [store for store in stores if is_settled(store)]
    donor = rng.choice(museum.foreign) if kinds is OF_FOREIGN else museum.stopped[0]
    return rng.choice(stores), donor, rng.choice(kinds)


def values(contents: StoreContents) -> dict[tuple[str, str], bytes | None]:
    """All that Bytewax hands to the steps."""
    return {key: row.value for key, row in contents.by_key.items()}


def outcome(museum: Museum, store: Path, donor: Path, mutate: Mutation, rng: random.Random) -> tuple[str, str]:
    """What the mutation did, and what became of it."""
    museum.enter(store)
    before = museum.site.read()
    what = f"{store.parent.name}: {mutate(museum.site.store, donor, rng)}"
    try:
        museum.site.open()
    except CrashError:
        assert refusal_file(museum.site.store).exists() != museum.site.store.exists(), what
        return what, "refused"
    after = museum.site.read()
    if after.resume_epoch == before.resume_epoch and values(after) == values(before):
        return what, "harmless"
    if taken(after) < taken(before):
        return what, "old: the broker knows better"
    return what, "UNSEEN"


def test_no_mutation_is_resumed_from_unseen(museum: Museum, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(SEED)
    outcomes: Counter[tuple[str, str]] = Counter()
    unseen = []
    for number in range(MUTATIONS):
        store, donor, mutate = draw(museum, rng)
        what, result = outcome(museum, store, donor, mutate, rng)
        outcomes[mutate.__name__, result] += 1
        if result == "UNSEEN":
            unseen.append(f"mutation {number}: {what}")
    lines = [f"  {name:16} {result:28} {count}" for (name, result), count in sorted(outcomes.items())]
    with capsys.disabled():
        sys.stdout.write("\n".join([f"\nseed {SEED}, {MUTATIONS} mutations:", *lines, ""]))
    assert not unseen, f"seed {SEED}: {unseen}"
    results = Counter[str]()
    for (_, result), count in outcomes.items():
        results[result] += count
    assert results["refused"] > MUTATIONS // 3


def test_every_exhibit_is_accepted_as_it_is(museum: Museum) -> None:
    """Else the guard would refuse anything, and the mutations would prove nothing."""
    assert len(museum.killed) > 5
    for store in [*museum.killed, *museum.stopped]:
        museum.enter(store)
        before = museum.site.read()
        museum.site.open()
        after = museum.site.read()
        assert (after.resume_epoch, values(after)) == (before.resume_epoch, values(before))
        assert after.unfinished == 0
