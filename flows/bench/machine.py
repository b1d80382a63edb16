"""The machine that a measurement was made on."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True):
    """Where a measurement was made.

    Attributes:
        cores: All of them; see `cores` for those that this process may use.
        memory_mib: That this process may use; 0 in results from before it was kept.
    """

    cpu: str
    cores: int
    python: str
    system: str
    memory_mib: int = 0


def machine() -> Machine:
    """This one."""
    return Machine(_cpu(), os.cpu_count() or 1, platform.python_version(), platform.platform(), _memory_mib())


def cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return [*range(os.cpu_count() or 1)]


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """This thread, and the threads and children that it starts meanwhile, stay on this core; `None`: on all.

    Does nothing where the core is not ours, or the system knows no such thing.
    """
    allowed = cores()
    if core is None or core not in allowed or not hasattr(os, "sched_setaffinity"):
        yield
        return
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def resident_mib() -> float:
    """Memory of this process that is in RAM now; where the system does not tell, the most that ever was."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_mib()
    return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage(2) would do, were it not that a child begins with the peak of the parent that started it.
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _memory_mib() -> int:
    """What the machine has, or what the container may use if that is less."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists():
        text = limit.read_text(encoding="ascii").strip()
        found = min(found, int(text)) if text.isdecimal() else found
    return int(found // 2**20)
