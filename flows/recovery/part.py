"""One file of a Bytewax recovery store, read and checked as far as it tells by itself."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bytewax.recovery import init_db_dir

from datastreamx.errors import CrashError, DamagedStoreError
from flows.recovery.wal import Lost, has_wrong_header, lost_in

PATTERN = "part-*.sqlite3"
FILES = 1
"""Of a store that we make: several tear apart where one does not (decision 0034)."""
PAGE_BYTES = 65_536
"""SQLite's largest (decision 0037)."""

_SCHEMA = "a1b387281f7eeea942b653227d54f84a3380d76e0462737451f4c46db75bb2dd"
"""Digest of the tables that Bytewax 0.21.1 makes."""
_USER_VERSION = 5
_OUTSIDE = tuple(
    f"SQLITE_{name}"
    for name in ("AUTH", "BUSY", "CANTOPEN", "FULL", "IOERR", "LOCKED", "NOMEM", "PERM", "PROTOCOL", "READONLY")
)
"""Errors that tell of the machine and not of the file."""
_WAL_MODE = b"\x02\x02"
_WAL_MODE_AT = 18
"""Where the file says that it has a write-ahead log. One that says otherwise is read without its log."""


@dataclass(frozen=True)
class RawRow:
    """A row of `snaps`; `change` is a pickle, or `None` for a key that was discarded."""

    step_id: str
    state_key: str
    epoch: int
    change: bytes | None


@dataclass(frozen=True)
class Part:
    """What one file holds.

    Attributes:
        index: Its number among `count` files of the store.
        executions: (number, workers, epoch resumed from) of starts of the flow.
        frontiers: (execution, worker, epoch before which all is durable).
        commit_epoch: Last epoch after which superseded rows were deleted; `None` before the first.
        lost: What of its log cannot be read.
    """

    path: Path
    index: int
    count: int
    executions: tuple[tuple[int, int, int], ...]
    frontiers: tuple[tuple[int, int, int], ...]
    commit_epoch: int | None
    rows: tuple[RawRow, ...]
    lost: Lost


def read_part(path: Path) -> Part:
    """Read a file and its write-ahead log; neither is changed.

    Raises:
        DamagedStoreError: SQLite finds damage, or it is no file of a store.
        CrashError: The file cannot be read just now.
    """
    try:
        return _read(path)
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", "")
        if code.startswith(_OUTSIDE):
            raise _unreadable(path, f"{error} ({code})") from None
        raise damage(path, str(error)) from None
    except (ValueError, OverflowError) as error:  # text that is no UTF-8
        raise damage(path, str(error)) from None
    except OSError as error:
        raise _unreadable(path, str(error)) from None


def damage(path: Path, what: str) -> DamagedStoreError:
    """The error for a store that is not as Bytewax left it."""
    return DamagedStoreError(f"recovery store {path} is damaged: {what}")


def _unreadable(path: Path, why: str) -> CrashError:
    return CrashError(
        f"recovery store {path} cannot be read: {why}. It is not known to be damaged: look after the disk and the "
        "rights of this user, and start again"
    )


def make_parts(directory: Path) -> None:
    """Make the files of a new store in an empty folder."""
    init_db_dir(directory, FILES)
    for path in directory.glob(PATTERN):
        with closing(connect(path, mode="rw")) as connection:
            # The size of pages is that of the file as it is written anew, which a log forbids.
            for statement in ("journal_mode = DELETE", f"page_size = {PAGE_BYTES}"):
                connection.execute(f"PRAGMA {statement}")
            connection.execute("VACUUM")
            connection.execute("PRAGMA journal_mode = WAL")


def connect(path: Path, *, mode: str) -> sqlite3.Connection:
    """Open a file of a store. A reader that finds no log must not make one."""
    has_log = _log(path).exists() and _log(path).stat().st_size > 0
    immutable = "&immutable=1" if mode == "ro" and not has_log else ""
    return sqlite3.connect(f"file:{quote(str(path))}?mode={mode}{immutable}", uri=True, isolation_level=None, timeout=1)


def _read(path: Path) -> Part:
    with path.open("rb") as file:
        header = file.read(100)
    if header[_WAL_MODE_AT : _WAL_MODE_AT + 2] != _WAL_MODE:
        raise damage(path, "it does not say that it has a write-ahead log, or is no SQLite file")
    if has_wrong_header(_log(path)):
        raise damage(path, f"the header of {_log(path).name} is wrong, so that nothing of it would be read")
    shared = path.with_name(path.name + "-shm")
    had_shared = shared.exists()
    try:
        with closing(connect(path, mode="ro")) as connection:
            connection.execute("BEGIN")
            _check(path, connection)
            return _contents(path, connection, lost_in(_log(path)))
    finally:
        if not had_shared:
            shared.unlink(missing_ok=True)


def _check(path: Path, connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA integrity_check(3)").fetchall()
    if found != [("ok",)]:
        raise damage(path, "; ".join(str(line[0]) for line in found))
    tables = connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL")
    schema = [" ".join(sql.split()) for (sql,) in tables]
    digest = hashlib.sha256("\n".join(sorted(schema)).encode()).hexdigest()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if digest != _SCHEMA or version != _USER_VERSION:
        raise damage(path, "its tables are not those that Bytewax 0.21.1 makes")


def _contents(path: Path, connection: sqlite3.Connection, lost: Lost) -> Part:
    parts = connection.execute("SELECT part_index, part_count FROM parts").fetchall()
    if len(parts) != 1:
        raise damage(path, f"it says {len(parts)} times which file of the store it is")
    ((index, count),) = parts
    commits = connection.execute("SELECT part_index, commit_epoch FROM commits").fetchall()
    if len(commits) > 1 or any(of != index for of, _ in commits):
        raise damage(path, f"it holds commits of other files: {commits}")
    return Part(
        path=path,
        index=index,
        count=count,
        executions=tuple(connection.execute("SELECT ex_num, worker_count, resume_epoch FROM exs")),
        frontiers=tuple(connection.execute("SELECT ex_num, worker_index, worker_frontier FROM fronts")),
        commit_epoch=commits[0][1] if commits else None,
        rows=tuple(
            RawRow(*row) for row in connection.execute("SELECT step_id, state_key, snap_epoch, ser_change FROM snaps")
        ),
        lost=lost,
    )


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")
