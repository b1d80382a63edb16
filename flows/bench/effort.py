"""What a piece of work took."""

from __future__ import annotations

import time

import msgspec

from flows.bench.machine import peak_mib


class Effort(msgspec.Struct, frozen=True):
    """What a process took for its work, warm-up not included.

    Attributes:
        units: Events, rows or boxes that it has done.
        wall_s: From the first to the last of them.
        cpu_s: Of all threads of the process, user and system.
        peak_mib: Largest resident memory of the process so far.
        more: Other figures by name, units last.
    """

    units: int
    wall_s: float
    cpu_s: float
    peak_mib: float
    more: dict[str, float] = {}

    @property
    def per_s(self) -> float:
        """Units per second."""
        return self.units / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU per unit."""
        return self.cpu_s / self.units * 1e6


class Stopwatch:
    """Measures a part of this process."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """From now on: what was before, a warm-up, does not count."""
        self._wall_s = time.perf_counter()
        self._cpu_s = time.process_time()

    def effort(self, units: int, more: dict[str, float] | None = None) -> Effort:
        """What it took since."""
        return Effort(
            units,
            time.perf_counter() - self._wall_s,
            time.process_time() - self._cpu_s,
            peak_mib(),
            more or {},
        )
