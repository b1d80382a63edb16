"""Keys of notices that have ended lately. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from operators.decisions.firsts import MEMORY_MS

KEY_BYTES = 8
KEYS_MAX = 20_000
"""160 kB of every snapshot."""
_GRID_MS = 10_000


class RecentKeys:
    """Remembers keys for `MEMORY_MS`, at least while there are no more than `KEYS_MAX`.

    It is the second line. The decision log's reader drops a second record of an auction for as long, and the impression
    join matches a push once; so a repeat that comes later would need a second record of the same auction minutes after
    the first, which only a damaged log holds. Longer memory would be paid in every snapshot.

    Args:
        dumped: What `dump` returned.
    """

    def __init__(self, dumped: Mapping[int, bytes] | None = None) -> None:
        self._ages: dict[int, set[bytes]] = {
            slot: {joined[at : at + KEY_BYTES] for at in range(0, len(joined), KEY_BYTES)}
            for slot, joined in (dumped or {}).items()
        }
        self._count = sum(map(len, self._ages.values()))

    def __contains__(self, key: bytes) -> bool:
        return any(key in keys for keys in self._ages.values())

    def add(self, key: bytes, now_ms: int) -> None:
        """Remember a key from now on."""
        if key in self:
            return
        self._ages.setdefault(now_ms // _GRID_MS, set()).add(key)
        self._count += 1
        self._forget(now_ms)

    def dump(self, now_ms: int) -> dict[int, bytes]:
        """All keys, joined, by the time at which they ended."""
        self._forget(now_ms)
        return {slot: b"".join(sorted(keys)) for slot, keys in self._ages.items()}

    def _forget(self, now_ms: int) -> None:
        oldest = (now_ms - MEMORY_MS) // _GRID_MS
        while self._ages:
            slot = min(self._ages)
            if slot >= oldest and (self._count <= KEYS_MAX or len(self._ages) == 1):
                return
            self._count -= len(self._ages.pop(slot))
