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
from sources.kafka.positions import Layout, decode_positions, encode_positions
from sources.kafka.reader import PartitionReader
from sources.kafka.start import StartPosition, split_among

MakeReader = Callable[[Layout, str], PartitionReader]
"""From what to read and the client id to a reader that was not started."""


class EventSource(FixedPartitionedSource[tuple[str, Chunk], bytes]):
    """Emits `(KeyGroup.key, Chunk)`, one per key group and poll, each key group in log order.

    Args:
        place: Which partitions are read here, by how many consumers; each of these is one Bytewax partition.
        pulse: Told of every call, every proven snapshot and the lag.
        stop: When set, the source reads no more and ends, and the flow with a final snapshot.
        drained: Asked then: the source ends when it says so. At the end of input Bytewax lets one key after the other
            finish what it has under way; what is done under another key cannot leave meanwhile, and is late.
        stop_at_end: End once every partition was read to its end, for replays.
        start: Instead of `events.start`.
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
        start: StartPosition | None = None,
        make_reader: MakeReader | None = None,
    ) -> None:
        events = config.events
        place = place or Place()
        self._pulse = pulse or Pulse()
        self._layouts = {
            f"reader-{reader:02d}": Layout(
                topics=(config.topics.events,),
                partitions=share,
                partition_count=events.partitions,
                groups_per_partition=events.groups_per_partition,
            )
            for reader, share in enumerate(split_among(place.partitions(events.partitions), place.readers))
            if share
        }
        self._chunk_records = events.chunk_records
        self._stop = stop or threading.Event()
        self._drained = drained
        self._stop_at_end = stop_at_end
        self._start = start or StartPosition.parse(events.start)
        self._make_reader = make_reader or (
            lambda layout, client_id: PartitionReader(
                config.kafka, layout, client_id=client_id, group="datastreamx-ads", pulse=self._pulse
            )
        )

    def list_parts(self) -> list[str]:
        """One per reader. The same on every worker; Bytewax shares them out."""
        return [*self._layouts]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> EventPartition:
        """Connect and begin where the snapshot says; raises what `PartitionReader.start` does.

        Raises:
            StateMismatchError: The snapshot belongs to another topic, other partitions or key groups.
        """
        layout = self._layouts[for_part]
        origin = self._start if resume_state is None else decode_positions(resume_state, layout)
        reader = self._make_reader(layout, f"{step_id}.{for_part}")
        reader.start(origin)
        return EventPartition(
            reader,
            layout,
            pulse=self._pulse,
            chunk_records=self._chunk_records,
            stop=self._stop,
            drained=self._drained,
            stop_at_end=self._stop_at_end,
        )


class EventPartition(StatefulSourcePartition[tuple[str, Chunk], bytes]):
    """One reader. Asks for no wake-up time of its own: Bytewax calls an idle source each millisecond (0.4 µs)."""

    def __init__(  # noqa: PLR0913 - what the source was told, all by name
        self,
        reader: PartitionReader,
        layout: Layout,
        *,
        pulse: Pulse,
        chunk_records: int,
        stop: threading.Event,
        drained: Callable[[], bool],
        stop_at_end: bool,
    ) -> None:
        self._reader = reader
        self._layout = layout
        self._pulse = pulse
        self._chunk_records = chunk_records
        self._stop = stop
        self._drained = drained
        self._stop_at_end = stop_at_end
        self._owes_proof = False
        # Building a key's text takes longer than looking it up.
        self._keys = {
            (partition, group): KeyGroup(partition, group).key
            for partition in layout.partitions
            for group in range(layout.groups_per_partition)
        }

    def next_batch(self) -> Iterable[tuple[str, Chunk]]:
        """Chunks of what has arrived; never blocks."""
        self._pulse.ran()
        if self._owes_proof:
            # Bytewax lets a source go on only when the epoch before is durable (decision D7).
            self._owes_proof = False
            self._pulse.snapshot_is_durable()
        if self._stop.is_set():
            return self._end()
        runs = self._reader.poll(self._chunk_records)
        if not runs:
            return self._end() if self._stop_at_end and self._reader.caught_up else []
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
        """Next offset of every partition; also shows them to lag tools."""
        self._owes_proof = True
        self._reader.commit()
        return encode_positions(self._layout, self._reader.positions)

    def close(self) -> None:
        """Leave the brokers."""
        self._reader.close()
