"""One supervisor per place: two would start workers that fight for one store, and each overwrite the other's status."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datastreamx.errors import CrashError

SUFFIX = ".supervisor.lock"


@contextmanager
def alone(directory: Path, flow: str, store: str) -> Iterator[None]:
    """Be the only supervisor of the worker with that store. The kernel lets go of the lock when this process ends.

    It is not the lock of the store, which a worker holds: between two workers that one is free, and a worker whose
    supervisor was killed may keep it for a moment longer.

    Raises:
        CrashError: There is one already, or the lock cannot be had.
    """
    path = directory / f"{store}{SUFFIX}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Not truncated: what is in it is the holder's. Closed by exec: a worker must not hold it.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held(_holder(handle), directory / store, flow) from None
        except OSError as error:
            raise _unusable(path, error) from None
        with suppress(OSError):  # a full disk; only the message of the next one suffers
            os.ftruncate(handle, 0)
            os.pwrite(handle, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(handle)


def _holder(handle: int) -> int | None:
    text = os.pread(handle, 20, 0).strip()
    return int(text) if text.isdigit() else None


def _held(pid: int | None, store: Path, flow: str) -> CrashError:
    who, how = ("another process", "") if pid is None else (f"process {pid}", f" (`kill {pid}`)")
    return CrashError(
        f"{who} already runs the flow {flow} on {store}, and never may two: stop that one first{how}, or give this one "
        "another --ordinal or recovery.directory. `datastreamx status` shows what runs"
    )


def _unusable(path: Path, error: OSError) -> CrashError:
    return CrashError(
        f"{path} cannot be locked ({error.strerror or error}): is the disk full or read-only? Make room, or let "
        "recovery.directory name another folder, and start again"
    )
