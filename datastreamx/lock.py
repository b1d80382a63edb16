"""Locks between processes of one machine: a file that the kernel lets go of when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datastreamx.errors import CrashError


@contextmanager
def exclusive(path: Path, refusal: Callable[[str], str]) -> Iterator[None]:
    """Hold the lock `path` for this process; the file and its folder are made, and stay.

    Args:
        path: Of the lock.
        refusal: From who holds it (`process 123`) to what the error says then.

    Raises:
        CrashError: Another process holds it, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not truncated: what is in it is the holder's. Closed by exec: no child must hold it.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CrashError(refusal(_holder(handle))) from None
        except OSError as error:
            raise _unusable(path, error) from None
        with suppress(OSError):  # a full disk; only the message of the next one suffers
            os.ftruncate(handle, 0)
            os.pwrite(handle, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(handle)


def _holder(handle: int) -> str:
    text = os.pread(handle, 20, 0).strip()
    return f"process {int(text)}" if text.isdigit() else "another process"


def _unusable(path: Path, error: OSError) -> CrashError:
    return CrashError(
        f"{path} cannot be locked ({error.strerror or error}): is the disk full or read-only? Make room, or let "
        "recovery.directory name another folder, and start again"
    )
