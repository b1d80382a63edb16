"""What the harness leaves on the machine while it runs, all of it by one prefix, so that nothing is left behind.

Names carry the process id of their owner: `pdl1a2b-...`. Whatever belongs to a process that is gone is swept away
before the next start, however that process has ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

NAMESPACES = Path("/run/netns")
CGROUPS = Path("/sys/fs/cgroup")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_TOOLS = ("unshare", "nsenter", "setpriv", "ip", "nft", "mount", "umount", "pivot_root")
_OURS = re.compile(r"\bpdl([0-9a-f]+)(?![0-9a-z])")
_CAP_SYS_ADMIN = 21
_MOUNT_POINT = 4


class PodletError(Exception):
    """The harness cannot do what it was asked; says what is missing."""


def unusable() -> str | None:
    """Why this machine cannot run the harness; `None` if it can."""
    if os.geteuid() != 0:
        return "needs root: namespaces, mounts and cgroups are made"
    effective = re.search(
        r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE
    )
    if effective is None or not int(effective[1], 16) >> _CAP_SYS_ADMIN & 1:
        return "needs CAP_SYS_ADMIN, which this root has not"
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        return f"needs {', '.join(missing)}: apt-get install util-linux iproute2 nftables"
    return None


def name(what: str = "", pid: int | None = None) -> str:
    """The name of something that belongs to this process."""
    return f"pdl{os.getpid() if pid is None else pid:x}" + (f"-{what}" if what else "")


def run(*argv: str, stdin: str | None = None) -> str:
    """Run a tool to its end.

    Raises:
        PodletError: It failed; quotes what it said.
    """
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, check=False, env={"PATH": PATH, "LC_ALL": "C"}
    )
    if done.returncode:
        raise PodletError(f"{' '.join(argv)} ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def sweep() -> None:
    """Remove everything of this process and of processes that are gone. Safe to call in any state.

    Raises:
        PodletError: Something does not go away.
    """

    def is_due(pid: int) -> bool:
        return pid == os.getpid() or not Path(f"/proc/{pid}").exists()

    groups = [*_owned(_children(CGROUPS, depth=2), is_due)]
    for group in groups:
        _end_processes(group)
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    points = [Path(line.split()[_MOUNT_POINT]) for line in mounts]
    for point in reversed([*_owned(points, is_due)]):
        if not point.is_relative_to(NAMESPACES):
            run("umount", "--lazy", str(point))
    for namespace in _owned(_children(NAMESPACES), is_due):
        run("ip", "netns", "delete", namespace.name)
    for link in _owned(_children(Path("/sys/class/net")), is_due):
        # The other end of a pair goes with the first.
        with contextlib.suppress(PodletError):
            run("ip", "link", "delete", link.name)
    for group in groups:
        for folder in [*(path for path in group.iterdir() if path.is_dir()), group]:
            folder.rmdir()
    tables = [line.split() for line in run("nft", "list", "tables").splitlines()]
    for table in _owned([Path(name) for _, _, name in tables], is_due):
        run("nft", "delete", "table", "ip", table.name)


def _owned(paths: Iterable[Path], is_due: Callable[[int], bool]) -> Iterator[Path]:
    for path in paths:
        found = _OURS.search(str(path))
        if found is not None and is_due(int(found[1], 16)):
            yield path


def _children(folder: Path, depth: int = 1) -> Iterator[Path]:
    if folder.is_dir():
        for child in folder.iterdir():
            yield child
            if depth > 1 and child.is_dir() and _OURS.search(child.name) is None:
                yield from _children(child, depth - 1)


def _end_processes(group: Path) -> None:
    """Normally there are none: they die with their parent."""
    deadline_s = time.monotonic() + 5
    while pids := [int(pid) for procs in group.rglob("cgroup.procs") for pid in procs.read_text().split()]:
        if time.monotonic() > deadline_s:
            raise PodletError(f"processes {pids} of {group} do not end")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
