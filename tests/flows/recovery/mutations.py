"""What can happen to a recovery store while nobody looks."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from flows.recovery import manifest
from flows.recovery.part import PATTERN

Mutation = Callable[[Path, Path, random.Random], str]
"""Of the store, with another one as donor; tells what it did."""

_PAGE = 4_096


def _file(store: Path, rng: random.Random) -> Path:
    files = sorted(path for path in store.iterdir() if not path.name.endswith("-shm") and path.stat().st_size)
    return rng.choice(files)


def flip_bit(store: Path, _: Path, rng: random.Random) -> str:
    path = _file(store, rng)
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return f"{path.name}: bit {bit} flipped"


def truncate(store: Path, _: Path, rng: random.Random) -> str:
    path = _file(store, rng)
    length = rng.randrange(path.stat().st_size)
    os.truncate(path, length)
    return f"{path.name}: cut to {length}"


def zero_page(store: Path, _: Path, rng: random.Random) -> str:
    path = _file(store, rng)
    content = bytearray(path.read_bytes())
    at = _PAGE * rng.randrange(1 + (len(content) - 1) // _PAGE)
    content[at : at + _PAGE] = bytes(len(content[at : at + _PAGE]))
    path.write_bytes(content)
    return f"{path.name}: zeroes from {at}"


def stale_file(store: Path, donor: Path, rng: random.Random) -> str:
    """One file, with its log or without, as it was earlier."""
    part = rng.choice(sorted(store.glob(PATTERN)))
    names = [part.name, f"{part.name}-wal"]
    kept = rng.choice([names, names[:1], names[1:]])
    for name in kept:
        _replace(store / name, donor / name)
    return f"{' and '.join(kept)} from {donor.parent.name}"


def lost_log(store: Path, _: Path, rng: random.Random) -> str:
    part = rng.choice(sorted(store.glob(PATTERN)))
    log = part.with_name(f"{part.name}-wal")
    log.unlink(missing_ok=True)
    return f"{log.name} deleted"


def all_from(store: Path, donor: Path, _: random.Random) -> str:
    """Every file but the manifest is the donor's."""
    for path in [*store.glob("part-*")]:
        path.unlink()
    for path in donor.glob("part-*"):
        shutil.copy(path, store)
    return f"all files from {donor.parent.name}"


def missing_file(store: Path, _: Path, rng: random.Random) -> str:
    path = _file(store, rng)
    path.unlink()
    return f"{path.name} deleted"


def doubled_file(store: Path, _: Path, rng: random.Random) -> str:
    parts = sorted(store.glob(PATTERN))
    part = rng.choice(parts)
    to = rng.choice([f"part-{len(parts)}.sqlite3", f"{part.stem} (1).sqlite3"])
    shutil.copy(part, store / to)
    return f"{part.name} copied to {to}"


def swapped_files(store: Path, _: Path, rng: random.Random) -> str:
    parts = sorted(store.glob(PATTERN))
    one, other = rng.sample(parts, 2) if len(parts) > 1 else (parts[0], store / "part-1.sqlite3")
    for suffix in ("", "-wal"):
        a, b, free = store / f"{one.name}{suffix}", store / f"{other.name}{suffix}", store / "free"
        if a.exists():
            a.replace(free)
        if b.exists():
            b.replace(a)
        if free.exists():
            free.replace(b)
    return f"{one.name} and {other.name} swapped"


def edited_manifest(store: Path, _: Path, rng: random.Random) -> str:
    path = store / manifest.FILE
    content: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    key = rng.choice(sorted(content))
    value = content[key]
    match value:
        case int():
            content[key] = value + rng.choice([-1, 1])
        case str():
            content[key] = "cluster" if key == "mode" else f"{value}x"
        case _:
            inner = rng.choice(sorted(value))
            value[inner] = f"{value[inner]}x" if isinstance(value[inner], str) else value[inner] + 1
    path.write_bytes(msgspec.json.encode(content))
    return f"{path.name}: {key} edited"


def deleted_rows(store: Path, _: Path, rng: random.Random) -> str:
    table = rng.choice(["snaps", "snaps", "snaps", "commits", "fronts", "exs", "parts"])
    return _edit(store, rng, table, lambda db, row: db.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,)))  # noqa: S608  names from above


def edited_epoch(store: Path, _: Path, rng: random.Random) -> str:
    table, column = rng.choice(
        [
            ("snaps", "snap_epoch"),
            ("snaps", "snap_epoch"),
            ("commits", "commit_epoch"),
            ("fronts", "worker_frontier"),
            ("exs", "resume_epoch"),
        ]
    )
    by = rng.choice([-1, 1])
    sql = f"UPDATE {table} SET {column} = {column} + {by} WHERE rowid = ?"  # noqa: S608  names from above
    return _edit(store, rng, table, lambda db, row: db.execute(sql, (row,)))


def swapped_values(store: Path, _: Path, rng: random.Random) -> str:
    part = rng.choice(sorted(store.glob(PATTERN)))
    with closing(sqlite3.connect(part, isolation_level=None)) as db:
        rows = db.execute("SELECT rowid, step_id, state_key, ser_change FROM snaps ORDER BY 1").fetchall()
        if len(rows) < 2:
            return f"{part.name}: nothing to swap"
        one, other = rng.sample(rows, 2)
        db.execute("UPDATE snaps SET ser_change = ? WHERE rowid = ?", (one[3], other[0]))
        db.execute("UPDATE snaps SET ser_change = ? WHERE rowid = ?", (other[3], one[0]))
    return f"{part.name}: values of {one[1:3]} and {other[1:3]} swapped"


def _edit(store: Path, rng: random.Random, table: str, edit: Callable[[sqlite3.Connection, int], object]) -> str:
    part = rng.choice(sorted(store.glob(PATTERN)))
    with closing(sqlite3.connect(part, isolation_level=None)) as db:
        rows = db.execute(f"SELECT rowid FROM {table} ORDER BY 1").fetchall()  # noqa: S608  one of five names
        if not rows:
            return f"{part.name}: {table} has no rows"
        (row,) = rng.choice(rows)
        edit(db, row)
    return f"{part.name}: row {row} of {table} edited"


def _replace(path: Path, by: Path) -> None:
    path.unlink(missing_ok=True)
    if by.exists():
        shutil.copy(by, path)


OF_FILES: tuple[Mutation, ...] = (
    flip_bit,
    flip_bit,
    flip_bit,
    truncate,
    zero_page,
    lost_log,
    missing_file,
    doubled_file,
    swapped_files,
    edited_manifest,
)
OF_OLD: tuple[Mutation, ...] = (stale_file, stale_file, all_from)
OF_FOREIGN: tuple[Mutation, ...] = (all_from,)
OF_ROWS: tuple[Mutation, ...] = (deleted_rows, deleted_rows, edited_epoch, edited_epoch, swapped_values)
