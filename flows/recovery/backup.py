"""Copies of recovery stores, taken while their flows run or not.

SQLite copies a file consistently while it is being written, and a store is one file: a copy is what a kill at that
moment would leave.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import msgspec

from datastreamx.config import Config
from datastreamx.errors import CrashError, DamagedStoreError, StateMismatchError
from datastreamx.place import Place
from flows.recovery.durable import sync_directory, write_durably
from flows.recovery.guard import check_store
from flows.recovery.inventory import store_names
from flows.recovery.lock import locked
from flows.recovery.manifest import FILE as MANIFEST
from flows.recovery.manifest import Manifest, check_manifest, manifest_of, read_manifest
from flows.recovery.steps import FLOWS, steps_of
from flows.recovery.store import StoreContents, part_files
from flows.recovery.swap import OnStep, unfinished_rescale

RECORD = "backup.json"
FORMAT = 1


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a store."""

    size_bytes: int
    sha256: str


class StoreRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One store in a backup.

    Attributes:
        store: Its folder, in the backup and below `recovery.directory`.
        mode: As its manifest says, like `cells` and `ordinal`.
        resume_epoch: First epoch that is not in it.
        keys: Rows in it.
        files: By name.
    """

    flow: str
    store: str
    mode: Literal["cells", "cluster"]
    cells: int
    ordinal: int
    resume_epoch: int
    keys: int
    files: dict[str, FileRecord]

    @property
    def place(self) -> Place:
        """Whose store it is."""
        return Place(self.mode, self.ordinal, self.cells)

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files.values())


class BackupRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds: `backup.json` in its folder.

    Attributes:
        taken_at: UTC, when it began.
        stores: Each is of a moment of its own; flows and cells share nothing.
    """

    format: int = FORMAT
    taken_at: datetime
    stores: tuple[StoreRecord, ...]


def back_up(
    config: Config,
    target: Path,
    now: datetime,
    *,
    flows: tuple[str, ...] = (),
    on_step: OnStep = lambda _: None,
) -> BackupRecord:
    """Copy the stores of this machine into the new folder `target`, and check the copies as a start would.

    Args:
        config: That of the flows.
        target: Must not exist, or be empty. It appears only when it is complete.
        now: UTC.
        flows: Which; empty: all that have a store here.
        on_step: Told of every step that is done.

    Raises:
        StateMismatchError: There is no store, one is damaged, of another configuration, or is being replaced.
        CrashError: `target` holds something, or cannot be written.
    """
    directory = Path(config.recovery.directory)
    replaced = unfinished_rescale(directory)
    if replaced is not None:
        raise StateMismatchError(replaced)
    found = {flow: store_names(directory, flow) for flow in flows or FLOWS}
    absent = [flow for flow, names in found.items() if not names]
    if absent and (flows or len(absent) == len(found)):
        raise StateMismatchError(f"{directory} holds no recovery store of {', '.join(absent)}: nothing to back up")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CrashError(
            f"{target} is not empty: a backup needs a folder of its own, e.g. {target}/{now:%Y%m%dT%H%M%SZ}"
        )
    draft = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(mode=0o700, parents=True)
        records = []
        for flow, names in found.items():
            for name in names:
                records.append(_back_up(config, flow, directory / name, draft / name))
                on_step(f"copied {name}")
        record = BackupRecord(taken_at=now, stores=tuple(records))
        write_durably(draft / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        draft.replace(target)
        sync_directory(target.parent)
    except (OSError, sqlite3.Error) as error:
        raise CrashError(f"the backup {target} cannot be written: {error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return record


def read_backup(source: Path) -> BackupRecord:
    """What the backup in `source` holds.

    Raises:
        StateMismatchError: It is none, or of another program.
    """
    path = source / RECORD
    try:
        record = msgspec.json.decode(path.read_bytes(), type=BackupRecord)
    except FileNotFoundError:
        raise StateMismatchError(f"{source} is no backup: it has no {RECORD}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise StateMismatchError(f"{path} cannot be read: {error}") from None
    if record.format != FORMAT:
        raise StateMismatchError(f"{path} has format {record.format}, this program reads {FORMAT}")
    return record


def put_back(config: Config, folder: Path, record: StoreRecord, target: Path) -> StoreContents:
    """Copy a store out of a backup into the new folder `target`, and check it there; raises what `check_copy` does.

    Nothing is opened in `folder` but to be read from its beginning to its end.
    """
    # It holds raw box ids and what they watched.
    target.mkdir(mode=0o700)
    for name in record.files:
        try:
            shutil.copyfile(folder / name, target / name)
        except FileNotFoundError:
            raise StateMismatchError(f"the backup {folder} is not complete: it has no {name}") from None
    return check_copy(config, target, record, origin=folder)


def check_copy(config: Config, folder: Path, record: StoreRecord, *, origin: Path | None = None) -> StoreContents:
    """Check a store of a backup: its files, and what a start of its flow would check.

    Args:
        config: That of the flow.
        folder: The store.
        record: What it has to be.
        origin: Where it was copied from; errors speak of that.

    Raises:
        StateMismatchError: A file is missing, differs from what was written, or is too many; or the store is not for
            this configuration, whose scaling does not matter here.
    """
    told = origin or folder
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if found != {*record.files}:
        odd = ", ".join(sorted(found ^ {*record.files}))
        raise StateMismatchError(f"the backup {told} is not complete, or holds something else: {odd}")
    for name, file in record.files.items():
        if _durable_record(folder / name) != file:
            raise StateMismatchError(
                f"the backup {told / name} is damaged: it is not what was written. Take another one"
            )
    check_manifest(folder, read_manifest(folder), manifest_of(record.flow, config, record.place))
    return check_store(folder, steps_of(record.flow, config, record.place))


@dataclass(frozen=True)
class _Copy:
    """A store and where it is copied to."""

    config: Config
    flow: str
    place: Place
    store: Path
    copy: Path

    def check(self, folder: Path) -> StoreContents:
        """As a start of the flow would."""
        return check_store(folder, steps_of(self.flow, self.config, self.place))

    def take(self) -> None:
        """Byte by byte, with the logs that a killed process has left. Only this needs the lock of the store."""
        parts = part_files(self.store)
        logs = [path.with_name(f"{path.name}-wal") for path in parts]
        self._begin()
        for path in (*parts, *(log for log in logs if log.exists())):
            shutil.copyfile(path, self.copy / path.name)

    def still(self) -> StoreContents:
        """Check what was taken, and fold the logs in, for places that cannot be written."""
        try:
            self.check(self.copy)
        except DamagedStoreError as error:
            # The copy is what the store is, and goes away with this.
            raise DamagedStoreError(str(error).replace(str(self.copy), str(self.store))) from None
        for path in part_files(self.copy):
            with closing(sqlite3.connect(path, isolation_level=None)) as part:
                part.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return self.check(self.copy)

    def live(self) -> StoreContents:
        """While a process writes: one transaction of SQLite, so the copy is what a kill at that moment would leave."""
        self._begin()
        for path in part_files(self.store):
            # Never `immutable`, and with no wish to write: who is running must not notice.
            url = f"file:{quote(str(path))}?mode=ro"
            with (
                closing(sqlite3.connect(url, uri=True, isolation_level=None)) as source,
                closing(sqlite3.connect(self.copy / path.name, isolation_level=None)) as target,
            ):
                source.backup(target)
        return self.check(self.copy)

    def _begin(self) -> None:
        shutil.rmtree(self.copy, ignore_errors=True)
        self.copy.mkdir()
        shutil.copyfile(self.store / MANIFEST, self.copy / MANIFEST)


def copy_held(config: Config, flow: str, store: Path, copy: Path) -> StoreRecord:
    """Copy a store into the new folder `copy`, and check the copy as a start would. The caller holds the store's lock.

    Raises:
        StateMismatchError: It is damaged, or of another configuration, whose scaling does not matter here.
    """
    manifest, job = _begun(config, flow, store, copy)
    job.take()
    contents = job.still()
    return _record(flow, store.name, copy, manifest, contents)


def _back_up(config: Config, flow: str, store: Path, copy: Path) -> StoreRecord:
    manifest, job = _begun(config, flow, store, copy)
    is_still = True
    with ExitStack() as held:
        try:
            held.enter_context(locked(store))
        except CrashError:
            is_still = False
        else:
            # No longer than copying takes: a worker that is started meanwhile finds the store in use, and its
            # supervisor gives up after a few of these.
            job.take()
    contents = job.still() if is_still else job.live()
    sync_directory(copy)
    return _record(flow, store.name, copy, manifest, contents)


def _begun(config: Config, flow: str, store: Path, copy: Path) -> tuple[Manifest, _Copy]:
    manifest = read_manifest(store)
    place = Place(manifest.mode, manifest.ordinal, manifest.cells)
    check_manifest(store, manifest, manifest_of(flow, config, place))
    return manifest, _Copy(config, flow, place, store, copy)


def _record(flow: str, name: str, copy: Path, manifest: Manifest, contents: StoreContents) -> StoreRecord:
    return StoreRecord(
        flow=flow,
        store=name,
        mode=manifest.mode,
        cells=manifest.cells,
        ordinal=manifest.ordinal,
        resume_epoch=contents.resume_epoch,
        keys=len(contents.rows),
        files={path.name: _durable_record(path) for path in sorted(copy.iterdir())},
    )


def file_record(path: Path) -> FileRecord:
    """Size and checksum of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(size_bytes=file.tell(), sha256=sha256)


def _durable_record(path: Path) -> FileRecord:
    """Checksum of a file, which is durable then."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_record(path)
