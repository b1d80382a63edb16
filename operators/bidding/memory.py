"""What was decided before this process began, read back from the decision log once per partition."""

from __future__ import annotations

import threading
from typing import Protocol

from datastreamx.model.auction import DecidedAuction
from datastreamx.model.keygroup import KeyGroup


class DecisionReader(Protocol):
    """Reads back what was decided before a crash."""

    def read_back(self, partition: int, from_offset: int | None) -> list[DecidedAuction]:
        """All decisions in the log of `partition` behind `from_offset` (None: from its beginning). Blocks."""


class DecidedMemory:
    """Decisions of earlier processes, shared by all key groups of this one.

    One reading per partition serves all its key groups, even those that appear later: what they must not decide again
    was decided by an earlier process, and what this process has written since is none of that.
    """

    def __init__(self, reader: DecisionReader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._read: dict[int, tuple[int | None, list[DecidedAuction]]] = {}

    def decided(self, key_group: KeyGroup, from_offset: int | None) -> dict[str, int]:
        """Auctions of `key_group` that the log holds behind `from_offset`: id to offset of the causing record.

        It may name some from before `from_offset`, too, if another key group had to look further back.
        """
        with self._lock:
            known = self._read.get(key_group.partition)
            if known is None or not _covers(known[0], from_offset):
                known = (from_offset, self._reader.read_back(key_group.partition, from_offset))
                self._read[key_group.partition] = known
        return {entry.auction_id: entry.offset for entry in known[1] if entry.group == key_group.group}


def _covers(known_from: int | None, from_offset: int | None) -> bool:
    return known_from is None or (from_offset is not None and known_from <= from_offset)
