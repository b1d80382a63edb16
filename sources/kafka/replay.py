"""Source of replayed rows: events as chunks, decisions as they stand in the log, and ticks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeAlias

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from datastreamx.config import Config
from datastreamx.model.chunk import Chunk
from datastreamx.model.log import LogBatch, Tick
from sources.kafka.chunks import Run, chunks_of
from sources.kafka.history import Beginning, History
from sources.kafka.positions import Layout
from sources.kafka.reader import MakeReader, PartitionReader
from sources.kafka.start import StartPosition
from sources.kafka.warehouse import log_batch

ReplayItem: TypeAlias = Chunk | LogBatch | Tick

PART = "reader-00"


class ReplaySource(FixedPartitionedSource[ReplayItem, bytes]):
    """Emits a `Chunk` per key group and a `LogBatch` per partition of ad-decisions, and a `Tick` after each snapshot.

    Both topics go forward together, whatever was written when (see `alignment`). Nothing is shown to the group of any
    flow.

    Args:
        start: Where to begin when there is no state.
        until_ms: The first record of a partition that is not older ends it.
        stop: When set, the source ends at the next call, and the flow with a final snapshot.
        records_max: Most records per poll.
        passed: Told of everything that is emitted.
        make_reader: Instead of a reader of the configured brokers, for tests.
    """

    def __init__(  # noqa: PLR0913  keyword-only options
        self,
        config: Config,
        *,
        start: StartPosition,
        until_ms: int,
        stop: threading.Event,
        records_max: int,
        passed: Callable[[list[ReplayItem]], None] = lambda _: None,
        make_reader: MakeReader | None = None,
    ) -> None:
        self._layout = Layout(
            topics=(config.topics.events, config.topics.decisions),
            partitions=tuple(range(config.events.partitions)),
            partition_count=config.events.partitions,
            groups_per_partition=config.events.groups_per_partition,
        )
        # Impressions wait for each other by the newest time of either topic; a fraction of that changes no match.
        slack_ms = config.warehouse.decision_memory_ms // 8
        self._beginning = Beginning(start)
        self._stop = stop
        self._records_max = records_max
        self._passed = passed
        self._make_reader = make_reader or (
            lambda layout, client_id: PartitionReader(
                config.kafka, layout, client_id=client_id, group=None, slack_ms=slack_ms, until_ms=until_ms
            )
        )

    def list_parts(self) -> list[str]:
        """One: a replay runs in one process."""
        return [PART]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> ReplayPartition:
        """Connect and begin where the snapshot says; raises what `History.begin` does."""
        reader = self._make_reader(self._layout, f"{step_id}.{for_part}")
        history = History.begin(reader, self._layout, resume_state, self._beginning)
        return ReplayPartition(reader, history, self._layout, self._stop, self._records_max, self._passed)


class ReplayPartition(StatefulSourcePartition[ReplayItem, bytes]):
    """One reader of both topics."""

    def __init__(  # noqa: PLR0913, PLR0917  what the source was told
        self,
        reader: PartitionReader,
        history: History,
        layout: Layout,
        stop: threading.Event,
        records_max: int,
        passed: Callable[[list[ReplayItem]], None],
    ) -> None:
        self._reader = reader
        self._history = history
        self._events_topic = layout.topics[0]
        self._groups = layout.groups_per_partition
        self._stop = stop
        self._records_max = records_max
        self._passed = passed

    def next_batch(self) -> Iterable[ReplayItem]:
        """A tick if a snapshot was taken since the last call, then what has arrived; never blocks."""
        items: list[ReplayItem] = [Tick()] if self._history.prove() else []
        if self._stop.is_set():
            raise StopIteration
        for run in self._reader.poll(self._records_max):
            items += self._items(run)
        if not items and self._reader.caught_up:
            raise StopIteration
        self._passed(items)
        return items

    def snapshot(self) -> bytes:
        """Next offset of every partition; the next batch begins with a tick."""
        return self._history.take()

    def close(self) -> None:
        """Leave the brokers."""
        self._reader.close()

    def _items(self, run: Run) -> list[Chunk] | list[LogBatch]:
        if run.topic == self._events_topic:
            return chunks_of(run, self._groups)
        return [log_batch(run)]
