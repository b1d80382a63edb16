"""Exponential back-off with jitter, and the circuit breaker around it. Pure: time and randomness are passed in."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits grow from `first_s` by doubling up to `longest_s`; each is drawn from its upper half.

    Jitter keeps several processes from returning in step; the lower bound of one half keeps a process from hammering.
    """

    first_s: float = 0.1
    longest_s: float = 30.0

    def delay_s(self, failures: int, random: Random) -> float:
        """Wait after the `failures`-th failure in a row, counted from 1."""
        # 2**30 exceeds any sensible ratio; the bound keeps an outage of days from overflowing a float.
        full_s = min(self.longest_s, self.first_s * float(1 << min(failures - 1, 30)))
        return full_s * (0.5 + 0.5 * random.random())


class Breaker:
    """Counts failures in a row and says how long to leave BigQuery alone.

    Closed it lets every call through. Each failure holds calls back for one back-off delay, after which one call may
    probe; from `failures_to_open` failures on it counts as open, which is what logs and metrics show.
    """

    def __init__(self, backoff: Backoff, random: Random, failures_to_open: int = 3) -> None:
        self._backoff = backoff
        self._random = random
        self._failures_to_open = failures_to_open
        self._failures = 0
        self._retry_at_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the other side counts as unwell."""
        return self._failures >= self._failures_to_open

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next call may be made; 0 means now."""
        return max(0.0, self._retry_at_s - now_s)

    def failed(self, now_s: float) -> bool:
        """Note a failure; true if it opened the breaker."""
        was_open = self.is_open
        self._failures += 1
        self._retry_at_s = now_s + self._backoff.delay_s(self._failures, self._random)
        return self.is_open and not was_open

    def succeeded(self) -> bool:
        """Note a success; true if it closed the breaker."""
        was_open = self.is_open
        self._failures = 0
        self._retry_at_s = 0.0
        return was_open
