"""One process per store: two would write snapshots of different runs into the same files."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datastreamx.errors import CrashError


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold the store for this process. The kernel lets go of it when the process ends, however it ends.

    The lock is a file beside the store, so that it holds while the folder is moved.

    Raises:
        CrashError: Another process holds it, or the file cannot be written.
    """
    path = store.with_name(f"{store.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not truncated: what is in it is the holder's.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CrashError(
            f"{path} cannot be written ({error}): is the disk full or read-only? Make room, or let recovery.directory "
            "name another folder, and start again"
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise CrashError(
                f"process {holder} is using the recovery store {store}: never run two on one store. Stop that one first"
            ) from None
        with suppress(OSError):  # a full disk; only the message of the next one suffers
            os.ftruncate(handle, 0)
            os.pwrite(handle, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(handle)
