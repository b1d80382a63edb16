"""Opens the recovery store of a flow: makes it where there is none, and never resumes from one that is not sound."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from bytewax.recovery import RecoveryConfig

from datastreamx.clock import Clock
from datastreamx.config import Config
from datastreamx.errors import CrashError, DamagedStoreError, DatastreamXError, StateMismatchError
from datastreamx.log import get_logger
from datastreamx.place import Place
from flows.panics import ENDS, sqlite_failure
from flows.recovery.durable import sync_directory
from flows.recovery.guard import check_store
from flows.recovery.handover import withdraw
from flows.recovery.last_start import check_last_start, had_begun
from flows.recovery.lock import locked
from flows.recovery.manifest import Manifest, check_manifest, manifest_of, read_manifest, write_manifest
from flows.recovery.part import PATTERN, connect, make_parts
from flows.recovery.quarantine import quarantine, require_no_refusal
from flows.recovery.steps import steps_of
from flows.recovery.store import StoreContents, part_files, read_store
from flows.recovery.swap import unfinished_rescale

_log = get_logger("recovery")


@contextmanager
def opened_store(flow: str, config: Config, place: Place, clock: Clock) -> Iterator[RecoveryConfig]:
    """Recovery store of `flow` at `place`, for this process alone until the context ends.

    Of the processes of a cluster one keeps the store; the others have an empty folder. A start that fails before
    anything is durable leaves no store behind: an empty one would be taken for one that is in use.

    Raises:
        StateMismatchError: It was made for another configuration, or it is refused: now, or since an earlier start.
        CrashError: Another process is using it, the directory cannot be used, or a copy that was left of it cannot be
            withdrawn.
    """
    directory = Path(config.recovery.directory) / place.store_name(flow)
    with locked(directory):
        is_empty = False
        try:
            if place.keeps_store:
                is_empty = _open(directory, flow, config, place, clock)
            else:
                _open_empty(directory)
        except (OSError, sqlite3.Error) as error:
            raise CrashError(
                f"recovery store {directory} cannot be used: {error}. If the disk is full or read-only, make room and "
                "start again: the flow goes on at its last snapshot"
            ) from error
        try:
            yield RecoveryConfig(str(directory))
        except DatastreamXError:
            if is_empty:
                _take_back(directory)
            raise


def open_store(directory: Path, manifest: Manifest | None = None) -> RecoveryConfig:
    """A store of somebody's own, on which no flow runs yet; made with `manifest` if there is none.

    Raises:
        DamagedStoreError: It is there and damaged.
        CrashError: It cannot be made or read.
    """
    if not directory.exists() or not any(directory.iterdir()):
        make_store(directory, manifest)
        return RecoveryConfig(str(directory))
    _drop_unfinished(read_store(directory))
    return RecoveryConfig(str(directory))


def make_store(directory: Path, manifest: Manifest | None) -> None:
    """Make a store beside its place and move it there as a whole: half a store would be taken for another one.

    Raises:
        CrashError: The disk is full, read-only, or something else is in its place.
    """
    unfinished = _unfinished(directory)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        # It holds raw box ids and what they watched.
        unfinished.mkdir(mode=0o700)
        make_parts(unfinished)
        if manifest is not None:
            write_manifest(unfinished, manifest)
        unfinished.replace(directory)
        sync_directory(directory.parent)
    except ENDS:
        raise
    except BaseException as error:
        raise CrashError(
            f"recovery store {directory} cannot be made: {sqlite_failure(error) or error}; is the disk full or "
            "read-only? Make room, or let recovery.directory name another folder, and start again"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def holds_nothing(directory: Path) -> bool:
    """Whether a flow would begin anew there: without a store, or with one in which nothing has ever been durable."""
    if not directory.exists() or not any(directory.iterdir()):
        return True
    try:
        contents = read_store(directory)
        return contents.is_empty and not had_begun(contents)
    except CrashError:  # what cannot be read may hold something
        return False


def remove_store(directory: Path) -> None:
    """Remove a store, or an empty folder in its place, as a whole: half a store would be taken for a foreign one."""
    doomed = _unfinished(directory)
    shutil.rmtree(doomed, ignore_errors=True)
    if directory.exists():
        directory.replace(doomed)
        sync_directory(directory.parent)
        shutil.rmtree(doomed, ignore_errors=True)


def _unfinished(directory: Path) -> Path:
    """Where a store is made, or unmade; removed with the next one that is."""
    return directory.with_name(f".{directory.name}.unfinished")


def _take_back(directory: Path) -> None:
    with suppress(OSError, sqlite3.Error):  # the error that ends the flow is the one to tell
        if holds_nothing(directory):
            remove_store(directory)


def _open(directory: Path, flow: str, config: Config, place: Place, clock: Clock) -> bool:
    """Make or check the store; whether nothing is durable in it."""
    replaced = unfinished_rescale(directory.parent)
    if replaced is not None:
        raise StateMismatchError(replaced)
    require_no_refusal(directory)
    wanted = manifest_of(flow, config, place)
    if not directory.exists() or not any(directory.iterdir()):
        make_store(directory, wanted)
        return True
    check_manifest(directory, read_manifest(directory), wanted)
    try:
        contents = check_store(directory, steps_of(flow, config, place))
        check_last_start(contents)
    except DamagedStoreError as error:
        now = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
        raise quarantine(directory, str(error), now) from None
    withdraw(config, flow, directory)
    _drop_unfinished(contents)
    return contents.is_empty


def _open_empty(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.glob(PATTERN)):
        raise StateMismatchError(
            f"{directory} holds a recovery store, and only process 0 of a cluster keeps one: move the folder away"
        )


def _drop_unfinished(contents: StoreContents) -> None:
    """Delete the rows of the epoch in which the last process was killed.

    Bytewax leaves them. It overwrites those of keys that are touched in that epoch this time, which ends elsewhere in
    the stream; the others would count as soon as that epoch is durable, and hold what has not been read again.
    """
    if not contents.unfinished:
        return
    _log.info("recovery.unfinished_epoch", epoch=contents.resume_epoch, rows=contents.unfinished)
    for path in part_files(contents.directory):
        with closing(connect(path, mode="rw")) as connection:
            connection.execute("DELETE FROM snaps WHERE snap_epoch >= ?", (contents.resume_epoch,))
