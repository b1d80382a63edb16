"""How far the broker has acknowledged each partition of a topic, shared between a sink and an operator."""

from __future__ import annotations

import threading


class AckedOffsets:
    """Highest acknowledged offset per partition. Thread-safe: delivery callbacks and workers meet here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offsets: dict[int, int] = {}

    def record(self, partition: int, offset: int) -> None:
        """Note that `offset` of `partition` was acknowledged; a lower one than known changes nothing."""
        with self._lock:
            if offset > self._offsets.get(partition, -1):
                self._offsets[partition] = offset

    def highest(self, partition: int) -> int | None:
        """Highest acknowledged offset of `partition`, `None` if this process has seen none."""
        with self._lock:
            return self._offsets.get(partition)

    def snapshot(self) -> dict[int, int]:
        """Copy of all highest offsets."""
        with self._lock:
            return dict(self._offsets)
