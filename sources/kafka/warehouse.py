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
from sources.kafka.chunks import Run
from sources.kafka.history import Beginning, History
from sources.kafka.layouts import log_layouts
from sources.kafka.reader import MakeReader, PartitionReader
from sources.kafka.start import StartPosition

POLL_BYTES = 8_000_000
"""Facts vary from 1 KB to 1 MB."""

GROUP = "datastreamx-warehouse"

_BEGINNING = StartPosition("beginning")

SLACK_MS_MAX = 60_000


def slack_ms(config: Config) -> int:
    """How far facts may be read ahead of decisions and the other way round: a quarter of what the join can bridge."""
    return min(SLACK_MS_MAX, config.warehouse.decision_memory_ms // 4)


class WarehouseSource(FixedPartitionedSource[LogBatch | Tick, bytes]):
    """Emits a `LogBatch` per (topic, partition) and poll, and a `Tick` first after each of its snapshots.

    Args:
        group: Under which proven positions are kept; `None`: nowhere, for replays.
        start: Where to begin when there is no state. The beginning suits the warehouse: what the topics hold belongs
            into the tables.
        accept_store: Go on with a recovery store that is older than what the flow has done, or with none.
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
        group: str | None = GROUP,
        start: StartPosition = _BEGINNING,
        accept_store: bool = False,
        may_read: Callable[[], bool] = lambda: True,
        place: Place | None = None,
        pulse: Pulse | None = None,
        stop: threading.Event | None = None,
        stop_at_end: bool = False,
        make_reader: MakeReader | None = None,
    ) -> None:
        self._pulse = pulse or Pulse()
        self._layouts = log_layouts(config, place or Place())
        self._records_max = config.events.chunk_records
        self._stop = stop or threading.Event()
        self._stop_at_end = stop_at_end
        self._make_reader = make_reader or (
            lambda layout, client_id: PartitionReader(
                config.kafka, layout, client_id=client_id, group=group, pulse=self._pulse, slack_ms=slack_ms(config)
            )
        )
        self._beginning = Beginning(start, accept_store=accept_store)
        self._may_read = may_read
        self._readers: list[PartitionReader] = []

    def tell_lag(self) -> None:
        """To be called, in the thread of the worker, by a sink that waits long: see `PartitionReader.tell_lag`."""
        for reader in self._readers:
            reader.tell_lag()

    def list_parts(self) -> list[str]:
        """One per reader. The same on every worker; Bytewax shares them out."""
        return [*self._layouts]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> WarehousePartition:
        """Connect and begin where the snapshot says; raises what `History.begin` does."""
        layout = self._layouts[for_part]
        reader = self._make_reader(layout, f"{step_id}.{for_part}")
        history = History.begin(reader, layout, resume_state, self._beginning)
        self._readers.append(reader)
        return WarehousePartition(
            reader,
            history,
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
        history: History,
        *,
        pulse: Pulse,
        records_max: int,
        may_read: Callable[[], bool],
        stop: threading.Event,
        stop_at_end: bool,
    ) -> None:
        self._reader = reader
        self._history = history
        self._pulse = pulse
        self._records_max = records_max
        self._may_read = may_read
        self._stop = stop
        self._stop_at_end = stop_at_end

    def next_batch(self) -> Iterable[LogBatch | Tick]:
        """A tick if a snapshot was taken since the last call, then what has arrived; never blocks."""
        self._pulse.ran()
        items: list[LogBatch | Tick] = []
        # No tick at the start: what a sink's snapshot holds at a resume is durable anyway, and the sink knows it.
        if self._history.prove():
            self._pulse.snapshot_is_durable()
            items.append(Tick())
        if self._stop.is_set():
            raise StopIteration
        runs = self._reader.poll(self._records_max, POLL_BYTES) if self._may_read() else []
        if not (items or runs) and self._stop_at_end and self._reader.caught_up:
            raise StopIteration
        return [*items, *map(log_batch, runs)]

    def snapshot(self) -> bytes:
        """Next offset and lineage of every partition; the next batch begins with a tick."""
        return self._history.take()

    def close(self) -> None:
        """Leave the brokers."""
        self._reader.close()


def log_batch(run: Run) -> LogBatch:
    """Records of one partition, as they stand in the log."""
    return LogBatch(
        topic=run.topic,
        partition=run.partition,
        offsets=[int(message.offset() or 0) for message in run.messages],
        timestamps_ms=[message.timestamp()[1] for message in run.messages],
        values=[message.value() or b"" for message in run.messages],
        headers=[_headers(message) for message in run.messages],
    )


def _headers(message: Message) -> list[tuple[str, bytes]]:
    # A header without a value is none of ours; empty bytes make its reader say so.
    pairs = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    return [(name, value or b"") for name, value in pairs]
