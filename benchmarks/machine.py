"""What every measurement says about where it was made, and how it sums up several rounds."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True):
    """Where a measurement was made."""

    cpu: str
    cores: int
    python: str
    system: str


class Spread(msgspec.Struct, frozen=True):
    """Several rounds of one figure."""

    median: float
    lowest: float
    highest: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:,.2f} ({self.lowest:,.2f} to {self.highest:,.2f}, {self.rounds} rounds)"


def machine() -> Machine:
    """This one."""
    cpu = "unknown"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return Machine(cpu, os.cpu_count() or 1, platform.python_version(), platform.platform())


def spread(figures: Sequence[float]) -> Spread:
    """Median and ends of a few rounds."""
    return Spread(statistics.median(figures), min(figures), max(figures), len(figures))


def percentile(figures: Sequence[float], share: float) -> float:
    """Nearest-rank percentile; `share` from 0 to 1."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def resident_mib() -> float:
    """Memory of this process that is in RAM now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
