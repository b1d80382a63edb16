"""Delays between attempts."""

from __future__ import annotations

import random


class Backoff:
    """Exponential delays with jitter, so that many clients of a broker that comes back do not call all at once."""

    def __init__(self, rng: random.Random, *, first_s: float = 0.05, longest_s: float = 2.0) -> None:
        self._rng = rng
        self._first_s = first_s
        self._longest_s = longest_s
        self._attempts = 0

    def next_s(self) -> float:
        """Seconds to wait before the next attempt: half fixed, half random."""
        # 2**16 reaches any sensible limit; beyond it a float would overflow after days of outage.
        ceiling = min(self._longest_s, self._first_s * float(2 ** min(self._attempts, 16)))
        self._attempts += 1
        return ceiling * (0.5 + self._rng.random() / 2)

    def reset(self) -> None:
        """Start over, after a success."""
        self._attempts = 0
