"""A limit on the calls of one aggregator that never queues: a slow partner may not hold back the others."""

from __future__ import annotations


class Bulkhead:
    """Counts the calls under way. Belongs to one event loop; not for use by several threads.

    Args:
        limit: Most calls under way at a time, at least 1. Keep it at or below the connection limit of the HTTP
            client, else calls queue there after all, and their timeouts include the wait.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"the limit of a bulkhead must be at least 1, not {limit}")
        self._limit = limit
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Calls under way, those that are only read for their lesson included."""
        return self._in_flight

    def try_enter(self) -> bool:
        """Take a place at once, or say that there is none. Whoever got True must `leave` exactly once."""
        if self._in_flight >= self._limit:
            return False
        self._in_flight += 1
        return True

    def leave(self) -> None:
        """Give the place back."""
        if self._in_flight == 0:
            raise AssertionError("a call left the bulkhead that never entered: the count would drift")
        self._in_flight -= 1
