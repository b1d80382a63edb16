from __future__ import annotations

import errno
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from datastreamx.clock import SystemClock
from datastreamx.config import Config
from datastreamx.errors import ConfigError, CrashError, StateMismatchError
from datastreamx.place import Place
from flows.recovery.lock import locked
from flows.recovery.manifest import read_manifest
from flows.recovery.opening import opened_store
from flows.recovery.quarantine import quarantine
from flows.recovery.rescale import Rescale, RescaleReport, rescale
from flows.recovery.reshard import Account, Mode, Store, account, places_with_store
from flows.recovery.store import read_store
from flows.recovery.swap import OnStep, unfinished_rescale
from flows.recovery.writer import write_store
from tests.flows import stores as made_up

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PARTITIONS = 5


class _CrashError(Exception):
    """The process died."""


def crash_after(steps: int) -> OnStep:
    left = steps

    def on_step(step: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise _CrashError(step)

    return on_step


class Disk:
    """A recovery directory with the stores of some flows."""

    def __init__(
        self,
        directory: Path,
        *,
        mode: Mode = "cells",
        cells: int = 2,
        flows: tuple[str, ...] = ("ads", "warehouse"),
        seed: int = 1,
    ) -> None:
        self.directory = directory / "recovery"
        self.flows = flows
        self.config = configured(self.directory)
        rng = random.Random(seed)
        for flow in flows:
            made_up.write(
                self.directory,
                flow,
                self.config,
                made_up.stores(flow, self.config, places_with_store(mode, cells), rng),
            )

    def rescale(
        self, cells: int, mode: Mode = "cells", *, dry_run: bool = False, on_step: OnStep = lambda _: None
    ) -> RescaleReport:
        return rescale(Rescale(self.config, mode, cells, dry_run=dry_run), NOW, on_step)

    def account(self, flow: str, cells: int, mode: Mode = "cells") -> Account:
        """Of the stores that there are, which have to be exactly these, each good enough for a start."""
        places = places_with_store(mode, cells)
        folders = [self.directory / place.store_name(flow) for place in places]
        assert sorted(path.name for path in self.directory.glob(f"{flow}-*") if path.is_dir()) == sorted(
            folder.name for folder in folders
        )
        settings = configured(self.directory, mode, cells)
        for place in places:
            with opened_store(flow, settings, place, SystemClock()):
                pass
        rows = [{key: row.value for key, row in read_store(folder).by_key.items()} for folder in folders]
        return account([*map(Store, places, rows)], made_up.terms(self.config))

    def accounts(self, cells: int, mode: Mode = "cells") -> list[Account]:
        return [self.account(flow, cells, mode) for flow in self.flows]


def configured(directory: Path, mode: Mode = "cells", cells: int = 1) -> Config:
    addresses = [f"host-{n}:1" for n in range(cells)] if mode == "cluster" else []
    scaling = f"addresses = {addresses}" if mode == "cluster" else f"cells = {cells}"
    return made_up.settings(
        PARTITIONS,
        f'[recovery]\ndirectory = "{directory}"\n[scaling]\nmode = "{mode}"\n{scaling}\n',
    )


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_cells_become_others_and_hold_the_same(disk: Disk) -> None:
    before = disk.accounts(2)
    for cells in (3, 1, 4, 5):
        report = disk.rescale(cells)
        assert report.state == "done"
        assert disk.accounts(cells) == before
    manifest = read_manifest(disk.directory / "ads-3")
    assert (manifest.cells, manifest.ordinal) == (5, 3)


def test_cells_become_a_cluster_and_the_other_way_round(disk: Disk) -> None:
    before = disk.accounts(2)
    disk.rescale(3, "cluster")
    assert disk.accounts(3, "cluster") == before
    disk.rescale(2, "cluster")
    assert disk.accounts(2, "cluster") == before
    disk.rescale(3)
    assert disk.accounts(3) == before


def test_report_tells_what_there_was_and_what_there_is(disk: Disk) -> None:
    report = disk.rescale(3)
    told = {line.store: line for line in report.after}
    assert [*told] == [f"{flow}-{cell}" for flow in disk.flows for cell in range(3)]
    assert told["ads-1"].partitions == [1, 4]
    # Two steps with two key groups in each of two partitions; the source and the pushes.
    assert told["ads-1"].keys == 2 * 2 * 2 + 2
    assert sum(line.keys for line in report.before if line.flow == "ads") == 2 * 2 * PARTITIONS + 2 * 2
    assert report.flows_without_store == ["notices"]


def test_old_stores_are_set_aside_as_they_were(disk: Disk) -> None:
    old = read_store(disk.directory / "warehouse-1").rows
    (disk.directory / "warehouse-1.status.json").write_text("{}")
    report = disk.rescale(1)
    assert report.set_aside == str(disk.directory / "before-rescale-20260102T030405Z")
    aside = Path(report.set_aside)
    assert sorted(path.name for path in aside.iterdir() if path.is_dir()) == [
        "ads-0",
        "ads-1",
        *("warehouse-0", "warehouse-1"),
    ]
    assert read_store(aside / "warehouse-1").rows == old
    assert (aside / "warehouse-1.status.json").exists()
    assert not (disk.directory / "warehouse-1.status.json").exists()


def test_a_second_rescale_within_a_second_sets_aside_elsewhere(disk: Disk) -> None:
    first, second = disk.rescale(3).set_aside, disk.rescale(2).set_aside
    assert first != second
    assert sorted(path.name for path in Path(str(second)).iterdir()) == sorted(
        f"{flow}-{n}" for flow in disk.flows for n in range(3)
    )


def test_a_dry_run_changes_nothing(disk: Disk) -> None:
    before = files(disk.directory)
    report = disk.rescale(3, dry_run=True)
    assert (report.state, len(report.after)) == ("planned", 3 * 2)
    assert files(disk.directory) == before


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_the_same_number_again_changes_nothing(disk: Disk) -> None:
    before = files(disk.directory)
    assert disk.rescale(2).state == "nothing"
    assert files(disk.directory) == before


def test_one_flow_alone(disk: Disk) -> None:
    rescale(Rescale(disk.config, "cells", 3, ("ads",)), NOW)
    assert disk.account("ads", 3) != Account()
    assert disk.account("warehouse", 2) != Account()
    # The other one follows later, and what is done is not done again.
    report = disk.rescale(3)
    assert {path.name for path in Path(str(report.set_aside)).iterdir()} == {"warehouse-0", "warehouse-1"}


# Refusals --------------------------------------------------------------------------------------------------------


def refused(disk: Disk, match: str, error: type[Exception] = StateMismatchError) -> None:
    before = files(disk.directory)
    with pytest.raises(error, match=match):
        disk.rescale(3)
    assert files(disk.directory) == before
    assert unfinished_rescale(disk.directory) is None


def test_a_missing_store_is_refused(disk: Disk) -> None:
    (disk.directory / "ads-1").rename(disk.directory / "elsewhere")
    refused(disk, r"lacks ads-1, of 2 cells of the flow ads")


def test_a_store_left_over_from_earlier_is_refused(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Disk(tmp_path / "other", cells=3)
    (other.directory / "ads-2").rename(disk.directory / "ads-2")
    refused(disk, "do not belong together: ads-0 of cells 2, ads-1 of cells 2, ads-2 of cells 3")


def test_a_store_in_use_is_refused(disk: Disk) -> None:
    with locked(disk.directory / "warehouse-1"):
        refused(disk, "is using the recovery store .*warehouse-1", CrashError)


def test_a_store_that_a_start_is_about_to_make_is_refused(disk: Disk) -> None:
    with locked(disk.directory / "warehouse-2"):
        refused(disk, "is using the recovery store .*warehouse-2", CrashError)


def test_a_damaged_store_is_refused(disk: Disk) -> None:
    path = disk.directory / "ads-1" / "part-0.sqlite3"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    refused(disk, "ads-1.* is damaged")


def test_a_store_that_was_refused_before_is_refused(disk: Disk) -> None:
    quarantine(disk.directory / "ads-1", "it is spoilt", NOW)
    refused(disk, "it is spoilt")


def test_another_configuration_is_refused(disk: Disk) -> None:
    events = msgspec.structs.replace(disk.config.events, groups_per_partition=3)
    disk.config = msgspec.structs.replace(disk.config, events=events)
    refused(disk, "made for events.groups_per_partition = 2, which is 3 now")


def test_more_cells_than_partitions_are_refused(disk: Disk) -> None:
    with pytest.raises(ConfigError, match=r"it is 6, and has to be 1 to events\.partitions"):
        disk.rescale(6)


def test_no_store_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recovery").mkdir()
    with pytest.raises(StateMismatchError, match="holds no recovery store of ads, warehouse, notices"):
        rescale(Rescale(configured(tmp_path / "recovery"), "cells", 2), NOW)


def test_new_stores_that_differ_are_thrown_away(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever writes the stores, what is read back decides."""
    real = write_store

    def lossy(directory: Path, flow: str, rows: dict[tuple[str, str], bytes]) -> None:
        lost = next((key for key in rows if key[0].endswith("viewing.state")), None)
        real(directory, flow, {key: value for key, value in rows.items() if key != lost})

    monkeypatch.setattr("flows.recovery.rescale.write_store", lossy)
    refused(disk, "would not hold what the old ones do .*ads-0, ads-1, ads-2 differ", CrashError)


def test_a_full_disk_is_told_and_nothing_is_left_behind(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("flows.recovery.rescale.write_manifest", full)
    refused(disk, "cannot be replaced: .*No space left on device", CrashError)


def test_an_impatient_operator_leaves_nothing_behind(disk: Disk) -> None:
    before = disk.accounts(2)

    def interrupt(step: str) -> None:
        if step == "built ads-1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        disk.rescale(3, on_step=interrupt)
    assert unfinished_rescale(disk.directory) is None
    assert disk.accounts(2) == before


# Crashes ---------------------------------------------------------------------------------------------------------


STEPS = [
    "begun",
    *(f"built ads-{cell}" for cell in range(3)),
    "verified",
    "complete",
    *(f"set aside ads-{cell}" for cell in range(2)),
    *(f"moved in ads-{cell}" for cell in range(3)),
    "journal removed",
]


def test_a_crash_at_any_step_is_finished_or_taken_back_by_the_same_command(tmp_path: Path) -> None:
    for crash, step in enumerate(STEPS):
        (tmp_path / str(crash)).mkdir()
        disk = Disk(tmp_path / str(crash), flows=("ads",))
        before = disk.accounts(2)
        with pytest.raises(_CrashError, match=step):
            disk.rescale(3, on_step=crash_after(crash))
        told = unfinished_rescale(disk.directory)
        if step == "journal removed":
            assert told is None
        else:
            assert "`datastreamx rescale --cells 3` again" in str(told), step
            for cells in (2, 3):
                with (
                    pytest.raises(StateMismatchError, match="being replaced"),
                    opened_store(
                        "ads", configured(disk.directory, "cells", cells), Place("cells", 0, cells), SystemClock()
                    ),
                ):
                    pass
        state = disk.rescale(3).state
        is_forward = STEPS.index("complete") <= crash
        assert state == ("nothing" if step == "journal removed" else "finished" if is_forward else "done"), step
        assert disk.accounts(3) == before, step
        assert not (disk.directory / ".rescale").exists() or step == "journal removed"


def test_crashes_of_the_recovery_itself_do_no_harm(disk: Disk) -> None:
    before = disk.accounts(2)
    with pytest.raises(_CrashError):
        disk.rescale(3, on_step=at_step("complete"))
    # Two flows: every attempt sets one store aside, or moves one in, or removes the journal, and dies.
    for _ in range(2 * (2 + 3) + 1):
        with pytest.raises(_CrashError):
            disk.rescale(3, on_step=crash_after(0))
    assert disk.rescale(3).state == "nothing"
    assert disk.accounts(3) == before


def test_an_unfinished_rescale_has_to_be_finished_before_another(disk: Disk) -> None:
    before = disk.accounts(2)
    with pytest.raises(_CrashError):
        disk.rescale(3, on_step=at_step("set aside ads-1"))
    with pytest.raises(StateMismatchError, match=r"earlier `datastreamx rescale --cells 3` had been interrupted"):
        disk.rescale(4)
    assert disk.accounts(3) == before
    assert disk.rescale(4).state == "done"
    assert disk.accounts(4) == before


def test_a_dry_run_leaves_an_unfinished_rescale_alone(disk: Disk) -> None:
    with pytest.raises(_CrashError):
        disk.rescale(3, on_step=at_step("set aside ads-1"))
    before = files(disk.directory)
    with pytest.raises(StateMismatchError, match="being replaced, or were"):
        disk.rescale(3, dry_run=True)
    assert files(disk.directory) == before


def at_step(step: str) -> OnStep:
    def on_step(done: str) -> None:
        if done == step:
            raise _CrashError(step)

    return on_step


@pytest.mark.parametrize("step", ["built ads-1", "set aside ads-0", "moved in ads-1"])
def test_a_process_that_is_killed_in_the_middle_leaves_nothing_that_the_next_cannot_finish(
    tmp_path: Path, step: str
) -> None:
    disk = Disk(tmp_path, flows=("ads",))
    before = disk.accounts(2)
    argv = [sys.executable, "-m", "tests.flows.killed_rescale", str(disk.directory), step]
    assert subprocess.run(argv, check=False, timeout=60).returncode == -signal.SIGKILL
    assert unfinished_rescale(disk.directory) is not None
    assert disk.rescale(3).state in {"done", "finished"}
    assert disk.accounts(3) == before


def test_two_commands_at_once_are_refused(disk: Disk) -> None:
    seen: list[Callable[[], None]] = []

    def again(_: str) -> None:
        if not seen:
            seen.append(lambda: None)
            with pytest.raises(CrashError, match="is using"):
                disk.rescale(4)

    disk.rescale(3, on_step=again)
    assert seen
    assert disk.accounts(3)


def test_locks_are_let_go_of(disk: Disk) -> None:
    disk.rescale(3)
    with ExitStack() as held:
        for name in ("ads-0", "ads-2", "rescale"):
            held.enter_context(locked(disk.directory / name))
