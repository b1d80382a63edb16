"""Start and stop the processes that stand in for outside systems, without ever leaving one behind."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Self

from datastreamx.errors import CrashError
from datastreamx.parenthood import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

POLL_INTERVAL_S = 0.02
LOG_TAIL_LINES = 20


class ChildError(CrashError):
    """A child process did not start, or ended before it was ready. Carries the end of its log."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago.

    Somebody else may take it before the caller binds it, so callers that pass it on to another process retry.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Child:
    """One child process with its log file; `start` returns when it is ready, or raises and leaves nothing running.

    The child leads its own process group and session: a Ctrl-C in the terminal reaches only the parent, which then
    stops its children in the order it wants, and whatever the child starts dies with it. On Linux the kernel kills the
    child when this process ends in any way, SIGKILL included; elsewhere an abrupt end of the parent leaves it running.

    A child may be started again after it ended. Standard output and error are appended to `log_path`.
    Not safe for use by several threads at once.

    Args:
        name: How errors call the child.
        argv: Program and arguments.
        log_path: Where output goes; missing parent folders are created.
        env: The child's whole environment; `None` passes on ours.
        cwd: Working directory.
        is_ready: Polled after the start until true; it must return within a second or so. `None`: ready when started.
        ready_within_s: How long `is_ready` may take in all.
    """

    def __init__(  # noqa: PLR0913  what a process needs; all but two by keyword
        self,
        name: str,
        argv: Sequence[str],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        is_ready: Callable[[Child], bool] | None = None,
        ready_within_s: float = 30.0,
    ) -> None:
        self.name = name
        self.argv = tuple(argv)
        self.log_path = log_path
        self._env = None if env is None else dict(env)
        self._cwd = cwd
        self._is_ready = is_ready
        self._ready_within_s = ready_within_s
        self._process: subprocess.Popen[bytes] | None = None
        self._group_is_dead = True
        self._log_start = 0

    @property
    def pid(self) -> int:
        """Process id, which is also the id of the process group.

        Raises:
            ChildError: The child was never started.
        """
        if self._process is None:
            raise ChildError(f"{self.name} was not started; call start() first")
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            ChildError: It could not be started, ended, or was not ready in time; names the log and quotes its end.
        """
        if self.poll() is None and self._process is not None:
            raise ChildError(f"{self.name} already runs as process {self._process.pid}; stop it first")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            try:
                self._process = _SPAWNER.run(lambda: self._spawn(log.fileno()))
            except OSError as error:
                raise ChildError(f"cannot start {self.name} ({self.argv[0]}): {error}") from error
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self, grace_s: float = 5.0) -> int | None:
        """Ask the child to end (SIGTERM), then kill its whole group; safe to call in any state.

        Args:
            grace_s: How long the child may take before it is killed.

        Returns:
            The exit code, negative for a signal, as in `subprocess`; `None` when it was never started.
        """
        if self._process is not None and self.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        return self.kill()

    def kill(self) -> int | None:
        """SIGKILL the whole process group and wait for its leader; safe to call in any state."""
        if self._process is None:
            return None
        if not self._group_is_dead:
            self._kill_group()
            self._process.wait()
        return self._process.returncode

    def poll(self) -> int | None:
        """The exit code, or `None` while the child runs (or was never started)."""
        if self._process is None:
            return None
        code = self._process.poll()
        if code is not None and not self._group_is_dead:
            # At once, and never again: once the leader is reaped and its group is empty, the number may be reused.
            self._kill_group()
        return code

    def output(self) -> str:
        """What the child wrote since its last start."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines of what the child wrote since its last start."""
        return "\n".join(self.output().splitlines()[-lines:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _spawn(self, log_fd: int) -> subprocess.Popen[bytes]:
        self._group_is_dead = False
        return subprocess.Popen(  # noqa: S603  the arguments are ours, and no shell is involved
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=subprocess.STDOUT,
            env=self._env,
            cwd=self._cwd,
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509  safe here, see die_with_parent
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._ready_within_s
        while True:
            code = self.poll()
            if code is not None:
                raise ChildError(self._describe(f"ended with code {code} before it was ready"))
            if self._is_ready is None or self._is_ready(self):
                return
            if time.monotonic() >= deadline:
                raise ChildError(self._describe(f"was not ready within {self._ready_within_s:g} s"))
            time.sleep(POLL_INTERVAL_S)

    def _describe(self, what: str) -> str:
        tail = self.log_tail() or "(nothing was written)"
        return f"{self.name} {what}; the end of its log {self.log_path}:\n{tail}"

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._group_is_dead = True


_Spawn = Callable[[], subprocess.Popen[bytes]]
_Request = tuple[_Spawn, Future[subprocess.Popen[bytes]]]


class _Spawner:
    """Forks all children from one thread that lives as long as the process.

    The parent-death signal fires when the *thread* that forked ends (prctl(2)), so a child started from a short-lived
    thread would be killed along with it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._owner_pid = 0

    def run(self, spawn: _Spawn) -> subprocess.Popen[bytes]:
        """Run `spawn` in the spawner thread and hand on what it returns or raises."""
        with self._lock:
            if self._owner_pid != os.getpid():
                # First use, or first use after a fork: threads do not survive one.
                self._requests = queue.SimpleQueue()
                threading.Thread(target=self._serve, args=(self._requests,), name="child-spawner", daemon=True).start()
                self._owner_pid = os.getpid()
            result: Future[subprocess.Popen[bytes]] = Future()
            self._requests.put((spawn, result))
        return result.result()

    @staticmethod
    def _serve(requests: queue.SimpleQueue[_Request]) -> None:
        while True:
            spawn, result = requests.get()
            try:
                result.set_result(spawn())
            except BaseException as error:  # noqa: BLE001  handed to the caller, who raises it
                result.set_exception(error)


_SPAWNER = _Spawner()
