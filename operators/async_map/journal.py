"""Effectively once: outputs that an earlier process has logged are not made again."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

V = TypeVar("V")
V_contra = TypeVar("V_contra", contravariant=True)


class Journal(Protocol[V_contra]):
    """The log in which outputs end up, e.g. a Kafka topic, as the operator needs to know it.

    Positions are those of *items* in the input: they never decrease under one key, and a replay repeats them. Marks are
    places in the *log*; only the journal knows what they mean.
    """

    def recall(self, key: str, mark: int | None) -> dict[str, int]:
        """Items of `key` whose outputs the log holds behind `mark`: id to position. Blocks.

        Args:
            key: Bytewax key.
            mark: What `mark` said before the last snapshot; `None`: read all of the log.
        """

    def mark(self, key: str) -> int | None:
        """A place in the log that all outputs made from now on come after; `None`: none is known yet.

        It has to be durable: an output before it survives any crash.
        """

    def position_of(self, item: V_contra) -> int:
        """Position of `item` in the input."""


class Replay(Generic[V]):
    """What one key still expects to see again after a restart.

    The input since the last snapshot comes again, and the log may hold the outputs of some of it. Until all of these
    have come, snapshots go on naming the old mark: a second crash must find them again.

    Args:
        journal: Read once, here.
        key: Bytewax key.
        mark: From the snapshot, `None` without one.
    """

    def __init__(self, journal: Journal[V], key: str, mark: int | None) -> None:
        self._journal = journal
        self._key = key
        self._mark = mark
        self._expected = journal.recall(key, mark)
        # The farthest at the end, so that what is passed is found without a look at the rest: after a lost store the
        # log of days is expected.
        self._farthest_first = sorted(((at, item_id) for item_id, at in self._expected.items()), reverse=True)

    def holds(self, item_id: str) -> bool:
        """Whether the log holds the output of this item. Says so once, for then it has come again."""
        return self._expected.pop(item_id, None) is not None

    def passed(self, item: V) -> None:
        """Forget what comes before `item`: it was done before the last snapshot, and does not come again.

        What has the same position may still come: Bytewax is free to hand on one batch in several.
        """
        position = self._journal.position_of(item)
        while self._farthest_first and self._farthest_first[-1][0] < position:
            _, item_id = self._farthest_first.pop()
            self._expected.pop(item_id, None)

    def mark(self) -> int | None:
        """What the next snapshot has to name."""
        if not self._expected:
            newest = self._journal.mark(self._key)
            self._mark = newest if newest is not None else self._mark
        return self._mark
