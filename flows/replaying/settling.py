"""After the last row: the rows of the last snapshot become visible only when a later start proves it durable."""

from __future__ import annotations

from collections.abc import Iterable

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from datastreamx.model.log import Tick
from sources.kafka.replay import PART, ReplayItem

_SNAPSHOTS = 3
"""One to resume from, one that a flush may just miss, and one that holds what it did."""


class SettlingSource(FixedPartitionedSource[ReplayItem, bytes]):
    """Emits nothing but ticks, one after each of a few snapshots, and keeps the position that it resumes from."""

    def list_parts(self) -> list[str]:
        """As the source whose place it takes."""
        return [PART]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> SettlingPartition:  # noqa: ARG002  one part
        """Keep the position.

        Raises:
            AssertionError: There is none: nothing was replayed.
        """
        if resume_state is None:
            raise AssertionError("only a replay that was run can be settled")
        return SettlingPartition(resume_state)


class SettlingPartition(StatefulSourcePartition[ReplayItem, bytes]):
    """The position."""

    def __init__(self, position: bytes) -> None:
        self._position = position
        self._snapshots = 0
        self._owes_tick = False

    def next_batch(self) -> Iterable[ReplayItem]:
        """A tick if a snapshot was taken since the last call."""
        if self._snapshots >= _SNAPSHOTS:
            raise StopIteration
        owed, self._owes_tick = self._owes_tick, False
        return [Tick()] if owed else []

    def snapshot(self) -> bytes:
        """The position that there was."""
        self._snapshots += 1
        self._owes_tick = True
        return self._position
