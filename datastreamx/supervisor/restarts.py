"""When a worker that has failed is started again, and when no more. Pure."""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import Literal

from datastreamx.supervisor.limits import Limits

Reason = Literal["error", "signal", "hang", "ended"]
"""error: it ended with a code. signal: somebody, or the kernel for want of memory, killed it. hang: we did.
ended: it ended without being asked to."""


class Restarts:
    """Exponential back-off with jitter, and an end to it.

    Args:
        limits: Delays and the rule for giving up.
        rng: Spreads the starts of workers that failed together.
    """

    def __init__(self, limits: Limits, rng: random.Random) -> None:
        self._limits = limits
        self._rng = rng
        self._failures_s: deque[float] = deque(maxlen=limits.failures_max)
        self._in_a_row = 0
        self.by_reason: Counter[Reason] = Counter()

    @property
    def count(self) -> int:
        """Starts after a failure."""
        return self.by_reason.total()

    def recent_failures(self, now_s: float) -> int:
        """Failures that still count."""
        return sum(now_s - at_s < self._limits.failures_within_s for at_s in self._failures_s)

    def failed(self, now_s: float, ran_s: float, reason: Reason) -> float | None:
        """A worker has failed.

        Args:
            now_s: Monotonic time.
            ran_s: How long it had been at work.
            reason: See `Reason`.

        Returns:
            Seconds until the next start; `None`: it failed too often, give up.
        """
        self._failures_s.append(now_s)
        if self.recent_failures(now_s) >= self._limits.failures_max:
            return None
        self.by_reason[reason] += 1
        self._in_a_row = 0 if ran_s >= self._limits.healthy_s else self._in_a_row
        delay_s = min(self._limits.longest_delay_s, self._limits.first_delay_s * float(2 ** min(self._in_a_row, 16)))
        self._in_a_row += 1
        return delay_s * self._rng.uniform(0.75, 1.25)
