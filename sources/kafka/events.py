"""Source of the ads flow: box events as chunks per key group."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from datastreamx.config import Config
from datastreamx.model.chunk import Chunk
from datastreamx.model.keygroup import KeyGroup
from datastreamx.place import Place
from datastreamx.pulse import Pulse
from sources.kafka.chunks import chunks_of
from sources.kafka.history import Beginning, History
from sources.kafka.layouts import event_layouts
from sources.kafka.positions import Layout
from sources.kafka.reader import MakeReader, PartitionReader
from sources.kafka.start import StartPosition

GROUP = "datastreamx-ads"


class EventSource(FixedPartitionedSource[tuple[str, Chunk], bytes]):
    """Emits `(KeyGroup.key, Chunk)`, one per key group and poll, each key group in log order.

    Args:
        place: Which partitions are read here, by how many consumers; each of these is one Bytewax partition.
        pulse: Told of every call, every proven snapshot and the lag.
        stop: When set, the source reads no more and ends, and the flow with a final snapshot.
        drained: Asked then: the source ends when it says so. At the end of input Bytewax lets one key after the other
            finish what it has under way; what is done under another key cannot leave meanwhile, and is late.
        stop_at_end: End once every partition was read to its end, for replays.
        until_ms: Each partition ends at its first record of this Kafka timestamp or a later one, which is not read; the
            source ends when all have.
        start: Instead of `events.start`.
        accept_store: Go on with a recovery store that is older than what the flow has done, or with none.
        group: Under which proven positions are kept; `None`: nowhere, for replays.
        make_reader: Instead of a reader of the configured brokers, for tests.
    """

    def __init__(  # noqa: PLR0913  keyword-only options, each with a default
        self,
        config: Config,
        *,
        place: Place | None = None,
        pulse: Pulse | None = None,
        stop: threading.Event | None = None,
        drained: Callable[[], bool] = lambda: True,
        stop_at_end: bool = False,
        until_ms: int | None = None,
        start: StartPosition | None = None,
        accept_store: bool = False,
        group: str | None = GROUP,
        make_reader: MakeReader | None = None,
    ) -> None:
        self._pulse = pulse or Pulse()
        self._layouts = event_layouts(config, place or Place())
        self._chunk_records = config.events.chunk_records
        self._stop = stop or threading.Event()
        self._drained = drained
        self._stop_at_end = stop_at_end
        self._beginning = Beginning(start or StartPosition.parse(config.events.start), accept_store=accept_store)
        self._make_reader = make_reader or (
            lambda layout, client_id: PartitionReader(
                config.kafka, layout, client_id=client_id, group=group, pulse=self._pulse, until_ms=until_ms
            )
        )

    def list_parts(self) -> list[str]:
        """One per reader. The same on every worker; Bytewax shares them out."""
        return [*self._layouts]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> EventPartition:
        """Connect and begin where the snapshot says; raises what `History.begin` does."""
        layout = self._layouts[for_part]
        reader = self._make_reader(layout, f"{step_id}.{for_part}")
        history = History.begin(reader, layout, resume_state, self._beginning)
        return EventPartition(
            reader,
            history,
            layout,
            pulse=self._pulse,
            chunk_records=self._chunk_records,
            stop=self._stop,
            drained=self._drained,
            stop_at_end=self._stop_at_end,
        )


class EventPartition(StatefulSourcePartition[tuple[str, Chunk], bytes]):
    """One reader. Asks for no wake-up time of its own: Bytewax calls an idle source each millisecond."""

    def __init__(  # noqa: PLR0913 - what the source was told, all by name
        self,
        reader: PartitionReader,
        history: History,
        layout: Layout,
        *,
        pulse: Pulse,
        chunk_records: int,
        stop: threading.Event,
        drained: Callable[[], bool],
        stop_at_end: bool,
    ) -> None:
        self._reader = reader
        self._history = history
        self._layout = layout
        self._pulse = pulse
        self._chunk_records = chunk_records
        self._stop = stop
        self._drained = drained
        self._stop_at_end = stop_at_end
        # Building a key's text takes longer than looking it up.
        self._keys = {
            (partition, group): KeyGroup(partition, group).key
            for partition in layout.partitions
            for group in range(layout.groups_per_partition)
        }

    def next_batch(self) -> Iterable[tuple[str, Chunk]]:
        """Chunks of what has arrived; never blocks."""
        self._pulse.ran()
        if self._history.prove():
            self._pulse.snapshot_is_durable()
        if self._stop.is_set():
            return self._end()
        runs = self._reader.poll(self._chunk_records)
        if not runs:
            is_over = self._reader.is_over or (self._stop_at_end and self._reader.caught_up)
            return self._end() if is_over else []
        return [
            (self._keys[chunk.partition, chunk.group], chunk)
            for run in runs
            for chunk in chunks_of(run, self._layout.groups_per_partition)
        ]

    def _end(self) -> list[tuple[str, Chunk]]:
        if self._drained():
            raise StopIteration
        return []

    def snapshot(self) -> bytes:
        """Next offset and lineage of every partition."""
        return self._history.take()

    def close(self) -> None:
        """Leave the brokers."""
        self._reader.close()
