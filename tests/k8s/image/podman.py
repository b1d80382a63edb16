"""Containers by podman, as a kubelet would run them: nothing writable but what is mounted, and no rights at all."""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.k8s.tools import ToolError, tool

WAIT_S = 60.0
GRACE_S = 120
"""terminationGracePeriodSeconds of the manifests."""

_POLL_S = 0.05
# podman raises its own limits as far as it may, and hands containers the most that it knows; it may not here.
_FILES = min(16_384, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
_LIMITS = (f"--ulimit=nofile={_FILES}:{_FILES}", "--ulimit=nproc=16384:16384", "--network=host")

RESTRICTED = (
    *_LIMITS,
    "--read-only",
    # podman would make /run and /var/tmp writable, too.
    "--read-only-tmpfs=false",
    "--tmpfs=/tmp:rw,nosuid,nodev,noexec,mode=1777,size=64m",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
)

_numbers = itertools.count()


class PodmanError(Exception):
    """A command of podman failed; the message ends with what it said."""


def podman(*arguments: str | Path, timeout_s: float = WAIT_S) -> str:
    """Run a command; its standard output.

    Raises:
        ToolError: podman or its runtime is not installed, or we are not root, without whom it needs more than that.
        PodmanError: It failed.
    """
    done = _run(arguments, timeout_s)
    if done.returncode:
        command = " ".join(map(str, arguments))
        raise PodmanError(f"`podman {command}` ended with {done.returncode}:\n{(done.stderr or done.stdout)[-6000:]}")
    return done.stdout


def build(file: Path, context: Path, *, tag: str, arguments: Mapping[str, str], secrets: Mapping[str, Path]) -> str:
    """Build an image; what the build said."""
    options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    options += [f"--secret=id={name},src={path}" for name, path in secrets.items()]
    return podman("build", *_LIMITS, *options, f"--tag={tag}", f"--file={file}", context, timeout_s=900)


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The files of an image, below a folder of this machine."""
    path = Path(podman("image", "mount", image).strip())
    try:
        yield path
    finally:
        podman("image", "unmount", image)


def once(image: str, *arguments: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a container to its end."""
    return _run(["run", "--rm", *RESTRICTED, *options, image, *arguments], WAIT_S)


@dataclass
class Container:
    """A container that runs until it is told not to. Use it as a context manager, which starts and removes it.

    Attributes:
        image: What it runs.
        arguments: Of its entry point.
        mounts: Folder or file of this machine by path inside; those that end with `:ro` cannot be written.
    """

    image: str
    arguments: Sequence[str]
    mounts: Mapping[str, Path]
    name: str = field(default_factory=lambda: f"datastreamx-test-{os.getpid()}-{next(_numbers)}")

    def __enter__(self) -> Self:
        volumes = [f"--volume={here}:{inside}" for inside, here in self.mounts.items()]
        podman("run", "--detach", f"--name={self.name}", *RESTRICTED, *volumes, self.image, *self.arguments)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(PodmanError):
            podman("rm", "--force", "--time=0", self.name)

    def stop(self) -> int:
        """Send the image's stop signal, and SIGKILL when the grace is over; the exit code."""
        podman("stop", f"--time={GRACE_S}", self.name, timeout_s=GRACE_S + WAIT_S)
        return int(podman("inspect", "--format={{.State.ExitCode}}", self.name))

    def run(self, *command: str) -> str:
        """Run a command inside; its standard output."""
        return podman("exec", self.name, *command)

    def logs(self) -> str:
        done = _run(["logs", self.name], WAIT_S)
        return done.stdout + done.stderr

    def until(self, holds: Callable[[], bool], what: str, *, within_s: float = WAIT_S) -> None:
        """Poll; the end of the container, or too long a wait, fails the test with its log."""
        deadline_s = time.monotonic() + within_s
        while not holds():
            is_running = podman("inspect", "--format={{.State.Running}}", self.name).strip() == "true"
            assert is_running, f"{self.name} ended\n{self.logs()}"
            assert time.monotonic() < deadline_s, f"waited in vain: {what}\n{self.logs()}"
            time.sleep(_POLL_S)

    def processes(self) -> dict[int, Process]:
        """What runs inside, by process id there."""
        first = Path("/proc") / podman("inspect", "--format={{.State.Pid}}", self.name).strip()
        place = (first / "ns/pid").readlink()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            # Processes end while we look, and some are nobody's business, not even root's.
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if (folder / "ns/pid").readlink() == place:
                    process = Process.at(folder)
                    found[process.pid] = process
        return found


@dataclass(frozen=True)
class Process:
    """One process of a container, as this machine sees it.

    Attributes:
        pid: Inside the container.
        parent: Likewise.
        argv: Its command line; empty for one that has ended and was not collected.
        state: Letter of proc(5); `Z` is such a one.
        uid: Real, effective, saved and file system.
        rights: Lines of `/proc/PID/status` on capabilities and filters.
    """

    pid: int
    parent: int
    argv: tuple[str, ...]
    state: str
    uid: tuple[int, ...]
    rights: Mapping[str, str]

    @classmethod
    def at(cls, folder: Path) -> Self:
        lines = (folder / "status").read_text(encoding="utf-8").splitlines()
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        argv = (folder / "cmdline").read_bytes().decode().split("\0")[:-1]
        names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
        return cls(
            pid=int(status["NSpid"].split()[-1]),
            parent=int(status["PPid"]),
            argv=tuple(argv),
            state=status["State"][0],
            uid=tuple(map(int, status["Uid"].split())),
            rights={name: status[name] for name in names},
        )


def _run(arguments: Sequence[str | Path], timeout_s: float) -> subprocess.CompletedProcess[str]:
    if os.geteuid() != 0:
        raise ToolError("containers are run by root here: run these tests as root")
    runtime = tool("runc")
    command = [tool("podman"), f"--runtime={runtime}", "--cgroup-manager=cgroupfs", "--log-level=error", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=timeout_s)
