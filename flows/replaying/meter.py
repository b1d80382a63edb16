"""How far a replay is: written by the flow's thread, read by whoever shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datastreamx.model.chunk import Chunk
from datastreamx.model.log import LogBatch, Tick
from sources.kafka.bounds import Bounds
from sources.kafka.replay import ReplayItem
from sources.kafka.start import PartitionId


class Meter:
    """Positions within the bounds of what is to be read.

    Args:
        events_topic: Where chunks come from.
        bounds: Of every partition that is read.

    Attributes:
        events: Records of box-events read by this process.
        records: Records of all topics read by this process.
        newest_ms: Kafka timestamp of the last one, 0 before there is one.
    """

    def __init__(self, events_topic: str, bounds: Mapping[PartitionId, Bounds]) -> None:
        self._events_topic = events_topic
        self._bounds = bounds
        self._next = {partition: bound.first for partition, bound in bounds.items()}
        self.events = 0
        self.records = 0
        self.newest_ms = 0

    @property
    def total(self) -> int:
        """Records of the whole replay; the local broker says too few."""
        return sum(bound.end - bound.first for bound in self._bounds.values())

    @property
    def done(self) -> int:
        """How many of them are read, those of earlier processes included."""
        return sum(min(self._next[partition], bound.end) - bound.first for partition, bound in self._bounds.items())

    def passed_chunks(self, items: Sequence[tuple[str, Chunk]]) -> None:
        """Note what the source of the ads flow has emitted."""
        self.passed([chunk for _, chunk in items])

    def passed(self, items: Sequence[ReplayItem]) -> None:
        """Note what a source has emitted."""
        for item in items:
            if isinstance(item, Tick):
                continue
            count = len(item.offsets)
            topic = item.topic if isinstance(item, LogBatch) else self._events_topic
            self.records += count
            self.events += count if isinstance(item, Chunk) else 0
            self.newest_ms = item.timestamps_ms[-1]
            # The chunks of one poll are not in the order of the log.
            partition = (topic, item.partition)
            self._next[partition] = max(self._next[partition], item.offsets[-1] + 1)
