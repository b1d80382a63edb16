"""Workers that behave as badly as a test wants, under a real supervisor in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from datastreamx.cli.output import fail
from datastreamx.errors import DatastreamXError
from datastreamx.log import configure_logging
from datastreamx.supervisor import Job, Limits, Status, Supervisor, read_status, status_path

WAIT_S = 30.0
FLOW = "ads"
STORE = "ads-0"

_MODULE = "tests.integration.supervised"
_WORKER = Path(__file__).with_name("bad_worker.py")

QUICK = Limits(first_delay_s=0.05, longest_delay_s=0.1, tick_s=0.1)


class Supervised:
    """A supervisor that runs, and what can be seen of it from outside."""

    def __init__(self, process: subprocess.Popen[str], directory: Path, log: Path) -> None:
        self.process = process
        self._directory = directory
        self._log = log

    @property
    def status(self) -> Status | None:
        return read_status(status_path(self._directory, STORE))

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def until(self, holds: Callable[[Status], bool], what: str) -> Status:
        """Wait for a status."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            found = self.status
            if found is not None and holds(found):
                return found
            assert time.monotonic() < deadline_s, f"waited in vain: {what}\n{found}\n{self.log}"
            time.sleep(0.01)

    def until_running(self) -> int:
        """Wait for a worker at its work; its process id."""
        pid = self.until(lambda status: status.stage == "running", "the worker runs").pid
        assert pid is not None
        return pid

    def end(self) -> int:
        """Wait for the supervisor's end; its exit code."""
        try:
            return self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it has not ended\n{self.log}") from None

    def stop(self, *numbers: signal.Signals) -> int:
        for number in numbers or (signal.SIGTERM,):
            self.process.send_signal(number)
        return self.end()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of an answer."""
        address = self.until(lambda status: status.metrics is not None, "it listens").metrics
        assert address is not None
        try:
            with urllib.request.urlopen(address.replace("/metrics", path), timeout=10) as answer:  # noqa: S310  ours
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def get_json(self, path: str) -> tuple[int, Any]:
        code, body = self.get(path)
        return code, json.loads(body)


@contextmanager
def supervised(
    directory: Path, behaviour: str, limits: Limits = QUICK, *, listen: bool = False, log_name: str = "log"
) -> Iterator[Supervised]:
    """A supervisor over a worker that behaves like that. The whole group is killed at the end."""
    log_path = directory / log_name
    arguments = [str(directory), behaviour, msgspec.json.encode(limits).decode(), str(int(listen))]
    with log_path.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        )
    try:
        yield Supervised(process, directory, log_path)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not only its remains."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _supervise(directory: Path, behaviour: str, limits: Limits, *, listen: bool) -> int:
    configure_logging(json=False)
    argv = [sys.executable, str(_WORKER), str(directory), behaviour]
    listen_at = ("127.0.0.1", 0) if listen else None
    try:
        verdict = Supervisor(Job(FLOW, STORE, argv, directory, listen_at, ["--permit"]), limits).run()
    except DatastreamXError as error:
        fail(error)
    if verdict.message is not None:
        print(f"error: {verdict.message}", file=sys.stderr, flush=True)  # noqa: T201  as the command line does
    return verdict.code


if __name__ == "__main__":
    _directory, _behaviour, _limits, _listen = sys.argv[1:]
    sys.exit(
        _supervise(Path(_directory), _behaviour, msgspec.json.decode(_limits, type=Limits), listen=bool(int(_listen)))
    )
