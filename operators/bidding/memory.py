"""What was decided before this process began, read back from the decision log once per partition."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

from datastreamx.acks import AckedOffsets
from datastreamx.model.auction import DecidedAuction, Opportunity
from datastreamx.model.keygroup import KeyGroup

LESSONS = 1_000
"""Last decisions per partition that are read for their lesson: an hour or so of a quiet partition, a few
minutes of a busy one, and some tens of milliseconds of a start."""


class DecisionReader(Protocol):
    """Reads back what was decided before a crash."""

    def read_back(self, partition: int, from_offset: int | None) -> list[DecidedAuction]:
        """All decisions in the log of `partition` behind `from_offset` (None: from its beginning), in order. Blocks."""


class _Decided(NamedTuple):
    """What is kept of a decision: about 150 bytes instead of 900."""

    auction_id: str
    group: int
    offset: int


class DecidedMemory:
    """Journal of the auctions: decisions of earlier processes, shared by all key groups of this one.

    One reading per partition serves all its key groups, even those that appear later: what they must not decide again
    was decided by an earlier process, and what this process has written since is none of that. Marks are offsets of the
    decision log, positions are offsets of the box events.

    The first reading also begins a little earlier, for what the house had learned: what it knows follows from the log,
    so a restart does not make it a beginner.

    Args:
        reader: Reads the log.
        acked: What the broker has acknowledged of this process's decisions.
        learn: Gets decisions of earlier processes, each once and in the log's order, on the thread of the worker that
            reads, while auctions of other key groups may run.
    """

    def __init__(self, reader: DecisionReader, acked: AckedOffsets, learn: Callable[[DecidedAuction], None]) -> None:
        self._reader = reader
        self._acked = acked
        self._learn = learn
        self._lock = threading.Lock()
        self._read: dict[int, tuple[int | None, list[_Decided]]] = {}

    def recall(self, key: str, mark: int | None) -> dict[str, int]:
        """See `Journal.recall`. May name some from before `mark`, if another key group had to look further back."""
        key_group = KeyGroup.parse(key)
        with self._lock:
            read_from, entries = self._read.get(key_group.partition, (mark, None))
            if entries is None or not _covers(read_from, mark):
                found = self._reader.read_back(key_group.partition, mark)
                if entries is None:
                    self._relearn(key_group.partition, mark, found)
                entries = [_Decided(entry.auction_id, entry.group, entry.offset) for entry in found]
                self._read[key_group.partition] = (mark, entries)
        return {entry.auction_id: entry.offset for entry in entries if entry.group == key_group.group}

    def _relearn(self, partition: int, mark: int | None, found: list[DecidedAuction]) -> None:
        if mark is not None and len(found) < LESSONS:
            found = self._reader.read_back(partition, mark - LESSONS if mark >= LESSONS else None)
        for entry in found[-LESSONS:]:
            self._learn(entry)

    def mark(self, key: str) -> int | None:
        """See `Journal.mark`: the highest acknowledged offset."""
        return self._acked.highest(KeyGroup.parse(key).partition)

    def position_of(self, item: Opportunity) -> int:
        """See `Journal.position_of`: the offset of the causing record."""
        return item.offset


def _covers(known_from: int | None, from_offset: int | None) -> bool:
    return known_from is None or (from_offset is not None and known_from <= from_offset)
