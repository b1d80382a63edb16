"""The part of the decision log that can concern a replay."""

from __future__ import annotations

from collections.abc import Mapping

from datastreamx.model.auction import DecidedAuction
from operators.bidding.memory import DecisionReader

SLACK_MS = 600_000
"""How much older than the replay's beginning a decision may be and still concern it.

A decision is made after its event was appended, so it is younger than all that stands before the event in the log. But
its timestamp is the ads flow's clock, and those of the events are the producers': clocks apart by more than this would
make the replay decide again what was decided. Ten minutes cost some seconds of reading."""


class RecentLog:
    """Reads back no further than where the replay's decisions can begin.

    Args:
        reader: Reads the whole log.
        floors: By partition, the first offset that can concern the replay; 0 where none is named.
    """

    def __init__(self, reader: DecisionReader, floors: Mapping[int, int]) -> None:
        self._reader = reader
        self._floors = floors

    def read_back(self, partition: int, from_offset: int | None) -> list[DecidedAuction]:
        """See `DecisionReader.read_back`; raises what that does."""
        before = self._floors.get(partition, 0) - 1
        if from_offset is not None:
            before = max(before, from_offset)
        return self._reader.read_back(partition, before if before >= 0 else None)
