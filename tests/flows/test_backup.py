from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from datastreamx.clock import SystemClock
from datastreamx.config import Config
from datastreamx.errors import CrashError, RetryableError, StateMismatchError
from datastreamx.place import Place
from flows.recovery import backup
from flows.recovery.backup import BackupRecord, StoreRecord, back_up, check_copy, read_backup
from flows.recovery.guard import check_store
from flows.recovery.lock import locked
from flows.recovery.opening import opened_store
from flows.recovery.quarantine import quarantine, refusal_file
from flows.recovery.rescale import Rescale, rescale
from flows.recovery.reshard import places_with_store
from flows.recovery.restore import Restore, RestoreReport, restore
from flows.recovery.steps import Step
from flows.recovery.store import StoreContents, read_store
from flows.recovery.swap import OnStep, unfinished_rescale
from sources.kafka.positions import Positions
from tests.flows import busy_flow
from tests.flows import stores as made_up

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FLOWS = ("ads", "warehouse", "notices")


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    """Two cells of each flow, with a store of two files each."""
    directory = tmp_path / "recovery"
    made = made_up.settings(4, f'[recovery]\ndirectory = "{directory}"\n[scaling]\ncells = 2\n')
    for flow in FLOWS:
        places = places_with_store("cells", 2)
        made_up.write(directory, flow, made, made_up.stores(flow, made, places, random.Random(flow)))
    return made


def store(settings: Config, name: str) -> Path:
    return Path(settings.recovery.directory) / name


def rows(store: Path) -> dict[tuple[str, str], bytes | None]:
    return {key: row.value for key, row in read_store(store).by_key.items()}


def contents(settings: Config) -> dict[str, dict[tuple[str, str], bytes | None]]:
    return {f"{flow}-{n}": rows(store(settings, f"{flow}-{n}")) for flow in FLOWS for n in range(2)}


# Backup ----------------------------------------------------------------------------------------------------------


def test_a_backup_holds_what_the_stores_hold(settings: Config, tmp_path: Path) -> None:
    before = contents(settings)
    record = back_up(settings, tmp_path / "copy", NOW)
    assert read_backup(tmp_path / "copy") == record
    assert {one.store: rows(tmp_path / "copy" / one.store) for one in record.stores} == before
    assert contents(settings) == before
    for one in record.stores:
        check_copy(settings, tmp_path / "copy" / one.store, one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "recovery"]


@contextmanager
def busy(directory: Path) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "tests.flows.busy_flow", str(directory)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert len([*islice(process.stdout, 5)]) == 5, "the flow ended by itself"
            yield process
        finally:
            process.kill()


def test_copies_of_a_store_that_is_being_written_are_consistent(tmp_path: Path) -> None:
    """Fifty epochs a second: a file that is copied byte by byte would often mix epochs."""
    config = busy_flow.configured(tmp_path / "recovery")
    seen = []
    with busy(tmp_path / "recovery") as process:
        for number in range(12):
            record = back_up(config, tmp_path / f"copy-{number}", NOW)
            assert process.poll() is None
            contents = check_copy(config, tmp_path / f"copy-{number}" / "ads-0", record.stores[0])
            (of_all,) = busy_flow.numbers(contents)
            seen.append(of_all)
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]


def test_a_copy_of_a_running_flow_can_be_restored_and_run(tmp_path: Path) -> None:
    config = busy_flow.configured(tmp_path / "recovery")
    with busy(tmp_path / "recovery"):
        record = back_up(config, tmp_path / "copy", NOW)
    (backed_up,) = busy_flow.numbers(check_copy(config, tmp_path / "copy" / "ads-0", record.stores[0]))
    put_back(config, tmp_path / "copy", force=True)
    with busy(tmp_path / "recovery"):
        pass
    (now,) = busy_flow.numbers(read_store(tmp_path / "recovery" / "ads-0"))
    assert now > backed_up


def test_a_store_that_a_killed_process_left_is_backed_up_with_its_log(tmp_path: Path) -> None:
    config = busy_flow.configured(tmp_path / "recovery")
    with busy(tmp_path / "recovery"):
        pass
    left = tmp_path / "recovery" / "ads-0"
    assert any(path.stat().st_size for path in left.glob("*-wal"))
    before = {path.name: path.read_bytes() for path in left.iterdir() if not path.name.endswith("-shm")}
    held = rows(left)
    record = back_up(config, tmp_path / "copy", NOW)
    assert rows(tmp_path / "copy" / "ads-0") == held
    # For places that cannot be written, such as a mounted archive: a log would have to be.
    assert {*record.stores[0].files} == {"store.json", "part-0.sqlite3"}
    assert {path.name: path.read_bytes() for path in left.iterdir() if not path.name.endswith("-shm")} == before


def test_a_store_is_held_no_longer_than_it_takes_to_copy(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that a supervisor starts meanwhile would find it in use, time and again."""
    checked: list[str] = []

    def check(directory: Path, steps: Iterable[Step]) -> StoreContents:
        with locked(store(settings, directory.name)):
            checked.append(directory.name)
        return check_store(directory, steps)

    monkeypatch.setattr(backup, "check_store", check)
    back_up(settings, tmp_path / "copy", NOW, flows=("ads",))
    assert {*checked} == {"ads-0", "ads-1"}


def test_damage_is_told_of_the_store_and_not_of_its_copy(settings: Config, tmp_path: Path) -> None:
    spoil(store(settings, "ads-1") / "part-0.sqlite3")
    with pytest.raises(StateMismatchError) as raised:
        back_up(settings, tmp_path / "copy", NOW)
    assert str(store(settings, "ads-1")) in str(raised.value)
    assert "unfinished" not in str(raised.value)


def set_commit(part: Path, epoch: int | None) -> None:
    with closing(sqlite3.connect(part, isolation_level=None)) as connection:
        connection.execute("DELETE FROM commits")
        if epoch is not None:
            connection.execute("INSERT INTO commits (part_index, commit_epoch) VALUES (0, ?)", [epoch])


def test_a_folder_that_is_not_empty_is_not_touched(settings: Config, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    back_up(settings, tmp_path / "copy", NOW)
    before = (tmp_path / "copy" / "backup.json").read_bytes()
    with pytest.raises(CrashError, match="is not empty"):
        back_up(settings, tmp_path / "copy", NOW)
    assert (tmp_path / "copy" / "backup.json").read_bytes() == before


def test_a_damaged_store_is_no_backup(settings: Config, tmp_path: Path) -> None:
    spoil(store(settings, "warehouse-1") / "part-0.sqlite3")
    with pytest.raises(StateMismatchError, match=r"warehouse-1.* is damaged"):
        back_up(settings, tmp_path / "copy", NOW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recovery"]


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)


def test_stores_that_are_being_replaced_are_not_backed_up(settings: Config, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        rescale(Rescale(settings, "cells", 3), NOW, lambda _: 1 // 0)  # type: ignore[arg-type]
    with pytest.raises(StateMismatchError, match="being replaced"):
        back_up(settings, tmp_path / "copy", NOW)


def test_a_flow_without_store_is_told(settings: Config, tmp_path: Path) -> None:
    for n in range(2):
        shutil.rmtree(store(settings, f"notices-{n}"))
    assert {one.flow for one in back_up(settings, tmp_path / "copy", NOW).stores} == {"ads", "warehouse"}
    with pytest.raises(StateMismatchError, match="no recovery store of notices"):
        back_up(settings, tmp_path / "other", NOW, flows=("notices",))


# Restore ---------------------------------------------------------------------------------------------------------


def never_old(_: Config, __: str, ___: Positions) -> None:
    """The flow did nothing since."""


def always_old(_: Config, flow: str, __: Positions) -> str:
    return f"{flow} went on"


def put_back(
    settings: Config,
    source: Path,
    *flows: str,
    force: bool = False,
    accept_duplicates: bool = False,
    ask: object = never_old,
    on_step: OnStep = lambda _: None,
) -> RestoreReport:
    wanted = Restore(settings, source, flows, force=force, accept_duplicates=accept_duplicates)
    return restore(wanted, NOW, on_step, ask=ask)  # type: ignore[arg-type]


@pytest.fixture
def copy(settings: Config, tmp_path: Path) -> Path:
    back_up(settings, tmp_path / "copy", NOW)
    return tmp_path / "copy"


def test_lost_stores_are_put_back(settings: Config, copy: Path) -> None:
    before = contents(settings)
    shutil.rmtree(settings.recovery.directory)
    report = put_back(settings, copy)
    assert (report.state, report.set_aside, report.cells) == ("done", None, 2)
    assert contents(settings) == before
    for flow in FLOWS:
        for place in places_with_store("cells", 2):
            with opened_store(flow, settings, place, SystemClock()):
                pass
    assert not [*Path(settings.recovery.directory).glob("before-*")]


def test_a_store_that_is_there_is_replaced_only_by_force(settings: Config, copy: Path) -> None:
    set_commit(store(settings, "ads-1") / "part-0.sqlite3", None)  # another content than the backup's
    before = (store(settings, "ads-1") / "part-0.sqlite3").read_bytes()
    with pytest.raises(StateMismatchError, match="holds ads-0, ads-1, which would be replaced"):
        put_back(settings, copy, "ads")
    assert (store(settings, "ads-1") / "part-0.sqlite3").read_bytes() == before
    report = put_back(settings, copy, "ads", force=True)
    assert report.set_aside == str(store(settings, "before-restore-20260102T030405Z"))
    assert (Path(report.set_aside) / "ads-1" / "part-0.sqlite3").read_bytes() == before
    assert (store(settings, "ads-1") / "part-0.sqlite3").read_bytes() != before


def test_a_refusal_ends_with_the_restore(settings: Config, copy: Path) -> None:
    quarantine(store(settings, "ads-0"), "it is spoilt", NOW)
    with pytest.raises(StateMismatchError, match="it is spoilt"), opened(settings):
        pass
    put_back(settings, copy, "ads", force=True)
    assert not refusal_file(store(settings, "ads-0")).exists()
    with opened(settings):
        pass


@contextmanager
def opened(settings: Config) -> Iterator[None]:
    with opened_store("ads", settings, Place("cells", 0, 2), SystemClock()):
        yield


def test_one_flow_alone_is_put_back(settings: Config, copy: Path) -> None:
    for flow in FLOWS:
        shutil.rmtree(store(settings, f"{flow}-0"))
    put_back(settings, copy, "notices", force=True)
    assert [store(settings, f"{flow}-0").exists() for flow in FLOWS] == [False, False, True]


@pytest.mark.parametrize("flow", ["warehouse", "notices"])
@pytest.mark.parametrize("age", ["old", "unknown"])
def test_an_old_store_that_would_repeat_what_is_done_needs_consent(
    settings: Config, copy: Path, flow: str, age: str
) -> None:
    def ask(_: Config, of: str, __: Positions) -> str:
        if age == "unknown":
            raise RetryableError("nobody answers")
        return f"{of} went on"

    before = contents(settings)
    with pytest.raises(StateMismatchError, match="a second time"):
        put_back(settings, copy, flow, force=True, ask=ask)
    assert contents(settings) == before
    report = put_back(settings, copy, flow, force=True, accept_duplicates=True, ask=ask)
    assert {(one.store, one.age) for one in report.stores} == {(f"{flow}-{n}", age) for n in range(2)}


def test_an_old_store_of_the_ads_flow_needs_none(settings: Config, copy: Path) -> None:
    report = put_back(settings, copy, "ads", force=True, ask=always_old)
    assert [(one.age, one.reason) for one in report.stores] == [("old", "ads went on")] * 2


def test_the_broker_is_asked_about_the_positions_of_each_store(settings: Config, copy: Path) -> None:
    asked = []

    def ask(_: Config, flow: str, positions: Positions) -> None:
        asked.append((flow, positions.layout.partitions, positions.layout.topics))

    put_back(settings, copy, force=True, ask=ask)
    log = ("box-facts", "ad-decisions")
    assert asked == [
        (flow, partitions, topics)
        for flow, topics in (("ads", ("box-events",)), ("warehouse", log), ("notices", log))
        for partitions in ((0, 2), (1, 3))
    ]


def test_stores_of_another_number_of_cells_are_set_aside_too(settings: Config, copy: Path) -> None:
    rescale(Rescale(settings, "cells", 3, ("ads",)), NOW)
    report = put_back(settings, copy, "ads", force=True)
    assert {path.name for path in Path(str(report.set_aside)).iterdir()} == {"ads-0", "ads-1", "ads-2"}
    assert not store(settings, "ads-2").exists()
    assert report.cells == 2


@pytest.mark.parametrize("fault", ["flipped", "missing", "foreign", "empty", "record", "format"])
def test_a_backup_that_is_not_what_was_written_is_refused(settings: Config, copy: Path, fault: str) -> None:
    before = contents(settings)
    match fault:
        case "flipped":
            path = copy / "ads-1" / "part-0.sqlite3"
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        case "missing":
            (copy / "ads-1" / "store.json").unlink()
        case "foreign":
            (copy / "ads-1" / "part-2.sqlite3").write_bytes(b"")
        case "empty":
            shutil.rmtree(copy / "ads-1")
        case "record":
            (copy / "backup.json").write_text("{}")
        case _:
            record = json.loads((copy / "backup.json").read_text())
            (copy / "backup.json").write_text(json.dumps(record | {"format": 2}))
    with pytest.raises(StateMismatchError, match=r"ads-1|backup\.json"):
        put_back(settings, copy, force=True)
    assert contents(settings) == before


def test_a_backup_of_another_configuration_is_refused(settings: Config, copy: Path) -> None:
    events = msgspec.structs.replace(settings.events, groups_per_partition=3)
    with pytest.raises(StateMismatchError, match=r"events\.groups_per_partition"):
        put_back(msgspec.structs.replace(settings, events=events), copy, force=True)


def test_a_flow_that_the_backup_lacks_is_told(settings: Config, tmp_path: Path) -> None:
    back_up(settings, tmp_path / "copy", NOW, flows=("ads",))
    with pytest.raises(StateMismatchError, match="holds no store of warehouse"):
        put_back(settings, tmp_path / "copy", "ads", "warehouse", force=True)


def test_a_store_in_use_is_not_replaced(settings: Config, copy: Path) -> None:
    before = contents(settings)
    with locked(store(settings, "ads-1")), pytest.raises(CrashError, match="is using"):
        put_back(settings, copy, force=True)
    assert contents(settings) == before


def test_a_crash_at_any_step_is_finished_or_taken_back_by_the_same_command(settings: Config, copy: Path) -> None:
    wanted = {f"ads-{n}": rows(copy / f"ads-{n}") for n in range(2)}
    steps: list[str] = []
    put_back(settings, copy, "ads", force=True, on_step=steps.append)
    assert {"checked", "begun", "copied ads-1", "complete", "set aside ads-0", "moved in ads-1"} <= {*steps}
    for step in steps:
        # What is there differs from the backup, so that putting it back can be seen.
        for n in range(2):
            shutil.rmtree(store(settings, f"ads-{n}"))
        other = made_up.stores("ads", settings, places_with_store("cells", 2), random.Random(step))
        made_up.write(Path(settings.recovery.directory), "ads", settings, other)
        with pytest.raises(_CrashError):
            put_back(settings, copy, "ads", force=True, on_step=at_step(step))
        told = unfinished_rescale(Path(settings.recovery.directory))
        assert (told is None) == (step in {"checked", "journal removed"}), step
        if told is not None:
            with pytest.raises(StateMismatchError, match="datastreamx restore"), opened(settings):
                pass
            with pytest.raises(StateMismatchError, match="datastreamx restore"):
                rescale(Rescale(settings, "cells", 3), NOW)
        put_back(settings, copy, "ads", force=True)
        assert {f"ads-{n}": rows(store(settings, f"ads-{n}")) for n in range(2)} == wanted, step


class _CrashError(Exception):
    """The process died."""


def at_step(step: str) -> OnStep:
    def on_step(done: str) -> None:
        if done == step:
            raise _CrashError(step)

    return on_step


def test_records_are_an_interface(settings: Config, tmp_path: Path) -> None:
    """Backups are kept for months: a field that is renamed makes them unreadable."""
    back_up(settings, tmp_path / "copy", NOW)
    record = json.loads((tmp_path / "copy" / "backup.json").read_text())
    assert {*record} == {*BackupRecord.__struct_fields__} == {"format", "taken_at", "stores"}
    assert {*record["stores"][0]} == {*StoreRecord.__struct_fields__}
    assert record["taken_at"] == "2026-01-02T03:04:05Z"
    assert {*record["stores"][0]["files"]["store.json"]} == {"size_bytes", "sha256"}
