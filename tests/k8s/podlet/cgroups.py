"""Memory limits of containers, by either version of control groups."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from tests.k8s.podlet import machine


@dataclass(frozen=True)
class MemoryGroup:
    """The group of one container, which its first process joins by writing 0 to `procs`."""

    folder: Path

    @property
    def procs(self) -> Path:
        """Where a process writes its id to join."""
        return self.folder / "cgroup.procs"

    def oom_kills(self) -> int:
        """Processes that the kernel has killed because the limit was reached."""
        for name in ("memory.oom_control", "memory.events"):
            with contextlib.suppress(FileNotFoundError):
                found = re.search(r"^oom_kill (\d+)$", (self.folder / name).read_text(encoding="ascii"), re.MULTILINE)
                return int(found[1]) if found else 0
        return 0

    def remove(self) -> None:
        """Remove it; all processes have ended."""
        # The kernel may take a moment for the last of them; the sweep at the end gets what is left.
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def memory_group(name: str, limit_bytes: int) -> MemoryGroup | None:
    """Make the group of a container; `None` where this machine has no memory controller for us.

    Swap counts too, as a node has none. On version 2 the whole container ends when the limit is reached, as kubelets
    ask for there; on version 1 one of its processes does.
    """
    first = machine.CGROUPS / "memory" / machine.name()
    if (machine.CGROUPS / "memory/memory.limit_in_bytes").exists():
        folder = _new(first, name)
        (folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
        with contextlib.suppress(OSError):  # swap may not be accounted for
            (folder / "memory.memsw.limit_in_bytes").write_text(str(limit_bytes))
        return MemoryGroup(folder)
    controllers = machine.CGROUPS / "cgroup.controllers"
    if not controllers.exists() or "memory" not in controllers.read_text(encoding="ascii").split():
        return None
    root = machine.CGROUPS / machine.name()
    try:
        (machine.CGROUPS / "cgroup.subtree_control").write_text("+memory")
        root.mkdir(exist_ok=True)
        (root / "cgroup.subtree_control").write_text("+memory")
    except OSError:  # a group that has processes, or that somebody else manages
        return None
    folder = _new(root, name)
    (folder / "memory.max").write_text(str(limit_bytes))
    (folder / "memory.oom.group").write_text("1")
    with contextlib.suppress(OSError):
        (folder / "memory.swap.max").write_text("0")
    return MemoryGroup(folder)


def _new(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
