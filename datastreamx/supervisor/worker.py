"""One worker process: started, heard through its pipe, signalled, reaped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence

import msgspec

from datastreamx.parenthood import die_with_parent
from datastreamx.pulse import PIPE_VARIABLE, Report

_READ_BYTES = 65_536
_LINE_BYTES_MAX = 4_096
"""A report is shorter; what is longer without a line end is none."""

_DECODER = msgspec.json.Decoder(Report)


class Worker:
    """A process in our process group, with our standard output and error, that never outlives us.

    Start it from a thread that lives as long as this process, see `die_with_parent`.

    Args:
        argv: Program and arguments.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.pipe, theirs = os.pipe()
        os.set_blocking(self.pipe, False)
        self._rest = b""
        self.is_deaf = False
        try:
            self._process = subprocess.Popen(  # noqa: S603  the arguments are ours, and no shell is involved
                argv,
                stdin=subprocess.DEVNULL,
                env={**os.environ, PIPE_VARIABLE: str(theirs)},
                pass_fds=(theirs,),
                preexec_fn=_before_exec(die_with_parent()),  # noqa: PLW1509  safe here, see die_with_parent
            )
        except OSError:
            os.close(self.pipe)
            raise
        finally:
            os.close(theirs)

    @property
    def pid(self) -> int:
        """Its process id; nobody else's while it was not reaped."""
        return self._process.pid

    def reports(self) -> list[Report]:
        """What it has said since the last call; never blocks. Lines that are no reports are passed over."""
        while not self.is_deaf:
            try:
                read = os.read(self.pipe, _READ_BYTES)
            except BlockingIOError:
                break
            # Nothing at all: the worker, and whoever else held the other end, is gone.
            self.is_deaf = not read
            self._rest += read
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest[-_LINE_BYTES_MAX:]
        found = []
        for line in lines:
            with contextlib.suppress(msgspec.MsgspecError):
                found.append(_DECODER.decode(line))
        return found

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; `None` while it runs. Reaps it."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Signal it; nothing happens if it has ended."""
        self._process.send_signal(number)

    def close(self) -> None:
        """Let go of the pipe, once it has ended."""
        os.close(self.pipe)


def _before_exec(die: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        die()
        # Ctrl-C reaches the whole process group. Until the worker has a handler, only we hear it, and pass it on.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    return run


def reap_orphans(worker_pid: int | None) -> None:
    """Collect children that others left to us, the first process of a container; but not the worker.

    Args:
        worker_pid: Its end is for `Worker.poll` to find.
    """
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        # Whoever ended first is told first: behind the worker we shall look when it was reaped.
        if ended is None or ended.si_pid == worker_pid:
            return
        os.waitpid(ended.si_pid, 0)
