"""What is read from a store is what Bytewax resumes from."""

from __future__ import annotations

import pickle
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from bytewax.inputs import AbortExecution
from bytewax.recovery import init_db_dir

from datastreamx.errors import DamagedStoreError
from flows.recovery.pickles import read_pickle, write_pickle
from flows.recovery.store import FIRST_EPOCH, StoreContents, part_files, read_store
from tests.flows.recovery.flow import READERS, copy, run

SEED = 20_241_123
FRAME = 24 + 4_096
"""Bytes of a frame in a write-ahead log."""


def made(store: Path, files: int) -> Path:
    store.mkdir()
    init_db_dir(store, files)
    return store


def resumed_from(store: Path, tmp_path: Path) -> list[tuple[str, str]]:
    """What Bytewax gives back to a flow that resumes from a copy of the store."""
    trial = tmp_path / "trial"
    copy(store, trial)
    seen: list[tuple[str, str]] = []
    run(trial, 0, seen=lambda place, what: seen.append((place, what)) if place not in {"batch", "snapshot"} else None)
    return sorted(seen)


def promised(contents: StoreContents) -> list[tuple[str, str]]:
    """The same, by what `read_store` says."""
    sources = {f"numbers {reader}": "None" for reader in READERS}
    counts = []
    for row in contents.rows:
        if row.step_id == "bare.numbers":
            sources[f"numbers {row.state_key}"] = f"{row.value!r}"
        elif row.step_id == "bare.counts" and not row.is_discarded:
            counts.append(("count", f"{row.value!r}"))
    return sorted([*sources.items(), *counts])


def files_of(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir() if not path.name.endswith("-shm")}


def killed_somewhere(store: Path, to: Path, rng: random.Random) -> None:
    """Copy the store at a random point of an execution that resumes from it."""
    left = rng.choice([rng.randrange(1, 12), rng.randrange(1, 200)])

    def seen(place: str, _: str) -> None:
        nonlocal left
        left -= place in {"batch", "snapshot"}
        if left == 0:
            copy(store, to)
        if left <= 0 and place == "batch":
            raise AbortExecution  # Nothing else may be raised here, and from nowhere else.

    run(store, 10_000, seen=seen)


@pytest.mark.parametrize("files", [1, 3])
def test_contents_are_what_bytewax_resumes_from_wherever_it_is_killed(files: int, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    store = made(tmp_path / "store", files)
    seen_epochs, discarded = set(), 0
    for kill in range(12):
        killed = tmp_path / f"killed-{kill}"
        killed_somewhere(store, killed, rng)
        before = files_of(killed)
        contents = read_store(killed)
        assert files_of(killed) == before
        assert promised(contents) == resumed_from(killed, tmp_path), f"seed {SEED}, kill {kill}"
        seen_epochs.add(contents.resume_epoch)
        discarded += sum(row.is_discarded for row in contents.rows)
        shutil.rmtree(store)
        killed.rename(store)
    assert len(seen_epochs) > 4
    assert discarded


@pytest.mark.parametrize(("files", "workers"), [(1, 1), (3, 2)])
def test_source_has_a_row_of_the_last_epoch_after_kill_9_and_after_a_clean_stop(
    files: int, workers: int, tmp_path: Path
) -> None:
    store = made(tmp_path / "store", files)
    argv = [sys.executable, "-m", "tests.flows.recovery.flow", str(store), str(workers)]
    for lines in (1, 8, 40, 120, 3):
        with subprocess.Popen([*argv, "1000000"], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert len([*islice(process.stdout, lines)]) == lines
            process.kill()
        contents = read_store(store)
        expected = set() if contents.is_empty else {(reader, contents.resume_epoch - 1) for reader in READERS}
        assert {(row.state_key, row.epoch) for row in contents.rows if row.step_id == "bare.numbers"} == expected
        assert promised(contents) == resumed_from(store, tmp_path)
    assert not read_store(store).is_empty
    run(store, 0, workers=workers)
    contents = read_store(store)
    sources = {(row.state_key, row.epoch) for row in contents.rows if row.step_id == "bare.numbers"}
    assert sources == {(reader, contents.resume_epoch - 1) for reader in READERS}
    assert not [path for path in store.iterdir() if path.name.endswith("-wal")]


def test_store_without_an_execution_is_empty(tmp_path: Path) -> None:
    contents = read_store(made(tmp_path / "store", 2))
    assert (len(part_files(contents.directory)), contents.resume_epoch, contents.rows) == (2, FIRST_EPOCH, ())
    assert contents.is_empty


def test_rows_of_an_epoch_that_did_not_end_are_counted_and_left_out(tmp_path: Path) -> None:
    store = stopped(tmp_path)
    sound = read_store(store)
    insert(store, "bare.counts", "ghost", sound.resume_epoch)
    contents = read_store(store)
    assert (contents.unfinished, contents.rows) == (1, sound.rows)


def stopped(tmp_path: Path, files: int = 1) -> Path:
    store = made(tmp_path / "store", files)
    run(store, 60)
    return store


def execute(store: Path, sql: str, *arguments: object, part: int = 0) -> None:
    with closing(sqlite3.connect(store / f"part-{part}.sqlite3", isolation_level=None)) as connection:
        connection.execute(sql, arguments)


def insert(store: Path, step_id: str, key: str, epoch: int) -> None:
    sql = "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, ?, ?)"
    execute(store, sql, step_id, key, epoch, write_pickle(b"x"))


def _empty(store: Path) -> None:
    shutil.rmtree(store)
    store.mkdir()


def _older_file(store: Path) -> None:
    old = store.with_name("old")
    copy(store, old)
    run(store, 200)
    shutil.copy(old / "part-0.sqlite3", store)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is missing": (lambda store: (store / "part-1.sqlite3").unlink(), "only part-0.sqlite3, part-1.sqlite3"),
    "the last file is missing": (lambda store: (store / "part-2.sqlite3").unlink(), "it is file 0 of 3, and is 0 of 2"),
    "all files are missing": (_empty, "no files"),
    "a file is there twice": (lambda store: shutil.copy(store / "part-1.sqlite3", store / "part-3.sqlite3"), "of 4"),
    "a copy has another name": (lambda store: shutil.copy(store / "part-1.sqlite3", store / "part-1x.sqlite3"), "1x"),
    "files are swapped": (
        lambda store: (
            shutil.copy(store / "part-1.sqlite3", store / "x"),
            (store / "part-2.sqlite3").replace(store / "part-1.sqlite3"),
            (store / "x").replace(store / "part-2.sqlite3"),
        ),
        "file 2 of 3, and is 1",
    ),
    "a file is older": (_older_file, "older than the others|impossible|is missing"),
    "a file is empty": (lambda store: (store / "part-0.sqlite3").write_bytes(b""), "no SQLite file"),
    "a file is text": (lambda store: (store / "part-0.sqlite3").write_text("x" * 9_000), "no SQLite file"),
    "a journal would be applied": (lambda store: (store / "part-0.sqlite3-journal").write_bytes(b"x"), "journal"),
    "the log has a wrong header": (lambda store: (store / "part-0.sqlite3-wal").write_bytes(b"x" * 99), "header"),
    "a table is missing": (lambda store: execute(store, "DROP TABLE fronts"), "tables"),
    "a table is new": (lambda store: execute(store, "CREATE TABLE mine (x)"), "tables"),
    "another schema version": (lambda store: execute(store, "PRAGMA user_version = 6"), "tables"),
    "a commit is ahead": (lambda store: execute(store, "UPDATE commits SET commit_epoch = 999"), "newer"),
    "a commit is behind": (lambda store: execute(store, "UPDATE commits SET commit_epoch = 0"), "older"),
    "a row is ahead": (lambda store: insert(store, "bare.counts", "k0", 999), "epoch 999"),
    "a value is a program": (
        lambda store: execute(store, "UPDATE snaps SET ser_change = ?", pickle.dumps(Path("x"), protocol=4)),
        "only bytes and None",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(name: str, tmp_path: Path) -> None:
    damage, message = DAMAGE[name]
    store = stopped(tmp_path, files=3)
    damage(store)
    with pytest.raises(DamagedStoreError, match=message):
        read_store(store)


def test_key_in_two_files_is_damage(tmp_path: Path) -> None:
    store = stopped(tmp_path, files=2)
    (row, *_) = read_store(store).rows
    for part in range(2):
        sql = "INSERT OR IGNORE INTO snaps (step_id, state_key, snap_epoch) VALUES (?, ?, ?)"
        execute(store, sql, row.step_id, row.state_key, row.epoch, part=part)
    with pytest.raises(DamagedStoreError, match="in another file"):
        read_store(store)


@pytest.mark.parametrize("files", [1, 3])
def test_commit_that_one_execution_after_the_other_owes_is_no_damage(files: int, tmp_path: Path) -> None:
    """As on a disk that is full whenever the commit is written: the frontier goes on, the commit stays."""
    store, killed = stopped(tmp_path, files), tmp_path / "killed"
    resume_epoch = read_store(store).resume_epoch
    owed = resume_epoch - 2

    def owe(commit: int) -> None:
        for part in range(files):
            execute(store, "UPDATE commits SET commit_epoch = ?", commit, part=part)

    for execution in range(1, 4):
        owe(owed)
        snapshots = 0

        def seen(place: str, _: str) -> None:
            nonlocal snapshots
            snapshots += place == "snapshot"
            if place == "batch" and snapshots >= len(READERS):
                copy(store, killed)
                raise AbortExecution

        run(store, 10_000, seen=seen)
        shutil.rmtree(store)
        killed.rename(store)
        owe(owed)
        contents = read_store(store)
        assert contents.resume_epoch == resume_epoch + execution
        assert promised(contents) == resumed_from(store, tmp_path)
    owe(owed - 1)
    with pytest.raises(DamagedStoreError, match="older than the others"):
        read_store(store)


def log_of(store: Path) -> Path:
    return store / "part-0.sqlite3-wal"


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A store whose newest transactions are in the log alone, all committed: nothing may be lost from there."""
    rng = random.Random(SEED)
    store, to = made(tmp_path / "store", 1), tmp_path / "killed"
    while True:
        killed_somewhere(store, to, rng)
        if not read_store(to).is_empty and log_of(to).stat().st_size > 20 * FRAME:
            return to


def is_damaged(store: Path) -> bool:
    try:
        read_store(store)
    except DamagedStoreError:
        return True
    return False


def test_flipped_bit_in_the_log_rolls_nothing_back_unseen(killed: Path) -> None:
    """SQLite takes a log with a wrong checksum for a shorter one; a state some transactions old is no error to it."""
    rng = random.Random(SEED)
    log = log_of(killed).read_bytes()
    commits = [at for at in range(32, len(log), FRAME) if int.from_bytes(log[at + 4 : at + 8], "big")]
    assert len(commits) > 3
    assert all(log[at + 8 : at + 16] == log[16:24] for at in range(32, len(log), FRAME)), "leftovers in the log"
    for _ in range(60):
        flipped = bytearray(log)
        bit = rng.randrange(8 * (commits[-2] + FRAME))
        flipped[bit // 8] ^= 1 << bit % 8
        log_of(killed).write_bytes(flipped)
        assert is_damaged(killed), f"seed {SEED}, bit {bit}"


def test_torn_transaction_of_an_epoch_that_does_not_count_is_forgiven(killed: Path) -> None:
    """As after a power failure: nobody was told of it."""
    sound = read_store(killed)
    log = log_of(killed).read_bytes()
    frame = bytearray(log[-FRAME:])
    frame[100] ^= 1
    log_of(killed).write_bytes(log + frame)
    assert read_store(killed) == sound


@pytest.mark.parametrize("value", [None, b"", b"x", bytes(255), bytes(256), bytes(70_000)], ids=lambda v: repr(v)[:12])
def test_pickle_of_bytes_is_read(value: bytes | None) -> None:
    assert read_pickle(pickle.dumps(value)) == value == pickle.loads(write_pickle(value))  # noqa: S301  our own


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit",))


@pytest.mark.parametrize("value", [Evil(), "text", 7, [b"x"], (b"x", b"y"), {b"x": None}, bytearray(b"x")])
def test_pickle_of_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="pickle"):
        read_pickle(pickle.dumps(value))


@pytest.mark.parametrize("data", [b"", b"\x80", b"garbage", pickle.dumps(b"x") + b"x", pickle.dumps(b"x")[:-1]])
def test_broken_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_pickle(data)
