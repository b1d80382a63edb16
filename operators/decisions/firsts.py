"""First record wins: a second decision about the same auction, from a process that had lost its place, is dropped."""

from __future__ import annotations

import msgspec

from datastreamx.snapshots import decode_versioned, encode_versioned

VERSION = 2

MEMORY_MS = 120_000
"""How long an auction id is remembered after its decision, by the newest decision seen. A second record can only come
from a process that was replaced while its last produce request was under way: seconds, not minutes. Not by deadline:
that is event time, and a box that reports hours late has its (expired) opportunities decided now."""
_PRUNE_EVERY_MS = MEMORY_MS // 4


class _Snapshot(msgspec.Struct, array_like=True):
    version: int
    latest_ms: int
    seen: dict[str, int]


_DECODER = msgspec.msgpack.Decoder(_Snapshot)


class FirstWins:
    """Auction ids of one partition that were seen lately, with the times of their decisions."""

    def __init__(self, snapshot: bytes | None = None) -> None:
        self._seen: dict[str, int] = {}
        self._latest_ms = 0
        if snapshot is not None:
            decoded = decode_versioned(snapshot, _DECODER, VERSION, "seen auctions")
            self._seen, self._latest_ms = decoded.seen, decoded.latest_ms

    def is_first(self, auction_id: str, decided_ms: int) -> bool:
        """Whether this is the first record of the auction, or of whatever else the id stands for."""
        if auction_id in self._seen:
            return False
        self._seen[auction_id] = decided_ms
        if decided_ms > self._latest_ms:
            # On a grid, not after an interval: a resume then forgets at the same moments.
            grid_passed = decided_ms // _PRUNE_EVERY_MS > self._latest_ms // _PRUNE_EVERY_MS
            self._latest_ms = decided_ms
            if grid_passed:
                self._prune()
        return True

    def snapshot(self) -> bytes:
        """Sealed, versioned bytes of what is remembered."""
        return encode_versioned(_Snapshot(VERSION, self._latest_ms, self._seen))

    def _prune(self) -> None:
        oldest_ms = self._latest_ms - MEMORY_MS
        self._seen = {auction: decided for auction, decided in self._seen.items() if decided >= oldest_ms}
