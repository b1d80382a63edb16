"""The one place where time is read. Everything else takes a `Clock`."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Source of wall and monotonic time."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since the epoch; may step."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never steps; only differences mean anything."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """See `Clock.monotonic_s`."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is told otherwise, for tests and simulation."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return self._now_ms

    def monotonic_s(self) -> float:
        """See `Clock.monotonic_s`."""
        return self._now_ms / 1000

    def advance(self, duration_ms: int) -> None:
        """Let `duration_ms` pass."""
        self._now_ms += duration_ms
