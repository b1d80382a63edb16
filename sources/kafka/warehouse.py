"""Source of the warehouse and notices flows: facts and decisions as they stand in the log, and ticks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import cast

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import Message

from datastreamx.config import Config
from datastreamx.model.log import LogBatch, Tick
from datastreamx.place import Place
from datastreamx.pulse import Pulse
from sources.kafka.positions import Layout, decode_positions, encode_positions
from sources.kafka.reader import PartitionReader
from sources.kafka.start import PartitionId, StartPosition, split_among

POLL_BYTES = 8_000_000
SLICE_RECORDS = 16

_BEGINNING = StartPosition("beginning")

MakeReader = Callable[[Layout, str], PartitionReader]
"""From what to read and the client id to a reader that was not started."""


class WarehouseSource(FixedPartitionedSource[LogBatch | Tick, bytes]):
    """Emits a `LogBatch` per (topic, partition) and poll, and a `Tick` first after each of its snapshots.

    Args:
        group: Under which positions are shown to lag tools.
        start: Where to begin when there is no state. The beginning suits the warehouse: what the topics hold belongs
            into the tables.
        may_read: When false, the source pauses; ticks come all the same.
        place: Which partitions are read here, by how many consumers; each of these is one Bytewax partition and reads
            both topics.
        pulse: Told of every call, every proven snapshot and the lag.
        stop: When set, the source ends at the next call, and the flow with a final snapshot.
        stop_at_end: End once every partition was read to its end, for replays.
        make_reader: Instead of a reader of the configured brokers, for tests.
    """

    def __init__(  # noqa: PLR0913  keyword-only options, each with a default
        self,
        config: Config,
        *,
        group: str = "datastreamx-warehouse",
        start: StartPosition = _BEGINNING,
        may_read: Callable[[], bool] = lambda: True,
        place: Place | None = None,
        pulse: Pulse | None = None,
        stop: threading.Event | None = None,
        stop_at_end: bool = False,
        make_reader: MakeReader | None = None,
    ) -> None:
        place = place or Place()
        self._pulse = pulse or Pulse()
        self._layouts = {
            f"reader-{reader:02d}": Layout(
                topics=(config.topics.facts, config.topics.decisions),
                partitions=share,
                partition_count=config.events.partitions,
                groups_per_partition=config.events.groups_per_partition,
            )
            for reader, share in enumerate(split_among(place.partitions(config.events.partitions), place.readers))
            if share
        }
        self._records_max = config.events.chunk_records
        self._stop = stop or threading.Event()
        self._stop_at_end = stop_at_end
        self._make_reader = make_reader or (
            lambda layout, client_id: PartitionReader(
                config.kafka, layout, client_id=client_id, group=group, pulse=self._pulse
            )
        )
        self._start = start
        self._may_read = may_read

    def list_parts(self) -> list[str]:
        """One per reader. The same on every worker; Bytewax shares them out."""
        return [*self._layouts]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> WarehousePartition:
        """Connect and begin where the snapshot says; raises what `PartitionReader.start` does.

        Raises:
            StateMismatchError: The snapshot belongs to other topics, partitions or key groups.
        """
        layout = self._layouts[for_part]
        origin = self._start if resume_state is None else decode_positions(resume_state, layout)
        reader = self._make_reader(layout, f"{step_id}.{for_part}")
        reader.start(origin)
        return WarehousePartition(
            reader,
            layout,
            pulse=self._pulse,
            records_max=self._records_max,
            may_read=self._may_read,
            stop=self._stop,
            stop_at_end=self._stop_at_end,
        )


class WarehousePartition(StatefulSourcePartition[LogBatch | Tick, bytes]):
    """One reader of both topics."""

    def __init__(  # noqa: PLR0913  what the source was told
        self,
        reader: PartitionReader,
        layout: Layout,
        *,
        pulse: Pulse,
        records_max: int,
        may_read: Callable[[], bool],
        stop: threading.Event,
        stop_at_end: bool,
    ) -> None:
        self._reader = reader
        self._layout = layout
        self._pulse = pulse
        self._records_max = records_max
        self._may_read = may_read
        self._stop = stop
        self._stop_at_end = stop_at_end
        # Not at the start: what a sink's snapshot holds at a resume is durable anyway, and the sink knows it.
        self._owes_tick = False

    def next_batch(self) -> Iterable[LogBatch | Tick]:
        """A tick if a snapshot was taken since the last call, then what has arrived; never blocks."""
        self._pulse.ran()
        if self._stop.is_set():
            raise StopIteration
        items: list[LogBatch | Tick] = []
        if self._owes_tick:
            self._owes_tick = False
            self._pulse.snapshot_is_durable()
            items.append(Tick())
        batches = self._poll() if self._may_read() else []
        if not (items or batches) and self._stop_at_end and self._reader.caught_up:
            raise StopIteration
        return [*items, *batches]

    def snapshot(self) -> bytes:
        """Next offset of every partition; the next batch begins with a tick."""
        self._owes_tick = True
        self._reader.commit()
        return encode_positions(self._layout, self._reader.positions)

    def close(self) -> None:
        """Leave the brokers."""
        self._reader.close()

    def _poll(self) -> list[LogBatch]:
        """Take small slices up to `POLL_BYTES`: the client counts only records, and facts vary from 1 KB to 1 MB."""
        records = size = 0
        gathered: dict[PartitionId, list[Message]] = {}
        while records < self._records_max and size < POLL_BYTES:
            runs = self._reader.poll(SLICE_RECORDS)
            if not runs:
                break
            for run in runs:
                records += len(run.messages)
                size += sum(map(len, run.messages))
                gathered.setdefault((run.topic, run.partition), []).extend(run.messages)
        return [_log_batch(*partition, messages) for partition, messages in gathered.items()]


def _log_batch(topic: str, partition: int, messages: list[Message]) -> LogBatch:
    return LogBatch(
        topic=topic,
        partition=partition,
        offsets=[int(message.offset() or 0) for message in messages],
        timestamps_ms=[message.timestamp()[1] for message in messages],
        values=[message.value() or b"" for message in messages],
        headers=[_headers(message) for message in messages],
    )


def _headers(message: Message) -> list[tuple[str, bytes]]:
    # A header without a value is none of ours; empty bytes make its reader say so.
    pairs = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    return [(name, value or b"") for name, value in pairs]
