"""A child process that the kernel ends together with its parent, however abruptly that one ends. Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def _load_prctl() -> Callable[[int, int], int] | None:
    """`prctl` of the C library, looked up once in the parent, because the forked child must not load anything."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = (ctypes.c_int, ctypes.c_ulong)
    prctl.restype = ctypes.c_int
    call: Callable[[int, int], int] = prctl
    return call


_PRCTL = _load_prctl()


def die_with_parent() -> Callable[[], None]:
    """What a child forked by this process runs before exec (`preexec_fn`), so that it never outlives its parent.

    The signal fires when the *thread* that forked ends (prctl(2)): fork from one that lives as long as the process.
    Does nothing where there is no such signal: an abrupt end of the parent then leaves the child running.

    Python calls `preexec_fn` unsafe with threads, because a lock held by another thread at the fork stays locked in
    the child. This one takes none: two system calls through a handle that exists already, no import, no logging.
    A wrapper program instead (`setpriv`, a Python bootstrap) is absent on some machines or costs 20 ms a start.
    """
    prctl, parent_pid = _PRCTL, os.getpid()
    if prctl is None:
        return lambda: None

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:
            # The parent died between fork and prctl: no signal will come any more.
            os._exit(1)

    return before_exec
