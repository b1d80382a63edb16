"""A child process is ready when `start` returns, and nothing of it is left when it ends, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING

import pytest

from simulator.processes import Child, ChildError, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Far above anything measured; a test that hangs must fail in its own words.
PATIENCE_S = 20.0

SLEEPS = "import time; print('up', flush=True); time.sleep(600)"
IGNORES_TERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"
HAS_CHILD = (
    "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    "print(child.pid, flush=True); time.sleep(600)"
)


def python(code: str, log: Path, ready_text: str | None = "\n", ready_within_s: float = PATIENCE_S) -> Child:
    return Child(
        "example",
        [sys.executable, "-c", code],
        log_path=log,
        is_ready=None if ready_text is None else lambda child: ready_text in child.output(),
        ready_within_s=ready_within_s,
    )


def is_gone(pid: int) -> bool:
    """Whether the process ended; a zombie that only waits to be reaped by somebody else did."""
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123  a kernel file, read in one go
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_gone(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.01)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "example.log"


@pytest.fixture
def started() -> Iterator[list[Child]]:
    children: list[Child] = []
    yield children
    for child in children:
        child.kill()


def test_free_port_differs_from_one_in_use() -> None:
    assert free_port() > 0


def test_start_returns_when_ready(log: Path) -> None:
    with python(SLEEPS, log, "up") as child:
        assert child.output() == "up\n"
        assert child.poll() is None


def test_child_has_closed_stdin_and_a_session_of_its_own(log: Path) -> None:
    code = f"import os, sys; print(repr(sys.stdin.read()), os.getsid(0) == os.getpid(), flush=True); {SLEEPS}"
    with python(code, log, "up") as child:
        assert child.output().splitlines()[0] == "'' True"


def test_stop_terminates_and_reports_the_exit_code(log: Path) -> None:
    code = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); {SLEEPS}"
    child = python(code, log)
    child.start()
    assert child.stop() == 7
    assert child.poll() == 7
    assert child.stop() == 7


def test_stop_kills_what_ignores_sigterm(log: Path) -> None:
    child = python(IGNORES_TERM, log)
    child.start()
    assert child.stop(grace_s=0.1) == -signal.SIGKILL


@pytest.mark.parametrize("end", ["stop", "kill", "crash"])
def test_grandchildren_end_with_the_child(log: Path, end: str) -> None:
    child = python(HAS_CHILD, log)
    child.start()
    grandchild = int(child.output())
    if end == "crash":
        os.kill(child.pid, signal.SIGKILL)
        wait_until_gone(child.pid)
        assert child.poll() == -signal.SIGKILL
    else:
        getattr(child, end)()
    wait_until_gone(grandchild)


def test_early_end_quotes_the_log(log: Path) -> None:
    child = python("print('the reason'); raise SystemExit(3)", log, "never")
    with pytest.raises(ChildError, match=r"example ended with code 3(.|\n)*the reason") as caught:
        child.start()
    assert str(log) in str(caught.value)


def test_never_ready_is_killed_and_reported(log: Path) -> None:
    child = python(SLEEPS, log, "never", ready_within_s=0.3)
    with pytest.raises(ChildError, match=r"not ready within 0\.3 s"):
        child.start()
    wait_until_gone(child.pid)


def test_failing_readiness_check_leaves_nothing_running(log: Path) -> None:
    def fails(_child: Child) -> bool:
        raise KeyboardInterrupt

    child = Child("example", [sys.executable, "-c", SLEEPS], log_path=log, is_ready=fails)
    with pytest.raises(KeyboardInterrupt):
        child.start()
    wait_until_gone(child.pid)


def test_missing_program_is_reported(log: Path) -> None:
    with pytest.raises(ChildError, match="cannot start example"):
        Child("example", ["/nonexistent/program"], log_path=log).start()


def test_output_of_an_earlier_start_does_not_count_as_ready(log: Path) -> None:
    child = python(SLEEPS, log, "up")
    for _ in range(2):
        child.start()
        assert child.output() == "up\n"
        child.stop()
    assert log.read_text() == "up\nup\n"


def test_second_start_while_running_is_refused(log: Path, started: list[Child]) -> None:
    child = python(SLEEPS, log)
    started.append(child)
    child.start()
    with pytest.raises(ChildError, match="already runs"):
        child.start()
    assert child.poll() is None


def test_child_outlives_the_thread_that_started_it(log: Path, started: list[Child]) -> None:
    child = python(SLEEPS, log)
    started.append(child)
    starter = threading.Thread(target=child.start)
    starter.start()
    starter.join()
    # A parent-death signal bound to the starting thread would have come by the time a later child is ready.
    with python(SLEEPS, log.with_name("later.log")):
        assert child.poll() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only the Linux kernel ends a child with its parent")
def test_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    parent_code = textwrap.dedent(f"""
        import pathlib, sys, time
        from simulator.processes import Child
        child = Child("example", [sys.executable, "-c", {SLEEPS!r}], log_path=pathlib.Path({str(tmp_path / "log")!r}),
                      is_ready=lambda child: "up" in child.output())
        child.start()
        print(child.pid, flush=True)
        time.sleep(600)
    """)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child_pid = int(parent.stdout.readline())
        assert not is_gone(child_pid)
        parent.kill()
    wait_until_gone(child_pid)
