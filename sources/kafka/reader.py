"""One consumer for all partitions of a worker: positions, expiry, end of partition, lag."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from datastreamx.config import KafkaConfig
from datastreamx.errors import CrashError, MissingTopicError
from datastreamx.kafka import consumer_properties
from datastreamx.log import get_logger
from datastreamx.metrics import (
    SOURCE_BYTES,
    SOURCE_ERRORS,
    SOURCE_LAG_RECORDS,
    SOURCE_LAG_SECONDS,
    SOURCE_RECORDS,
)
from datastreamx.pulse import Pulse
from sources.kafka.alignment import Alignment
from sources.kafka.chunks import Run, runs_of
from sources.kafka.codes import END_OF_PARTITION, MISSING_TOPIC, OUT_OF_RANGE
from sources.kafka.health import ANY_TOPIC, BrokerHealth
from sources.kafka.outside import Outside
from sources.kafka.partition import PartitionState
from sources.kafka.positions import Layout, Positions
from sources.kafka.queries import BrokerQueries
from sources.kafka.start import PartitionId, StartPosition, Watermarks, beyond_end, expired, first_offset
from sources.kafka.tail import TailReader
from sources.kafka.witness import Evidence

_log = get_logger("source")

PUBLISH_INTERVAL_S = 1.0
PREFETCH_KBYTES = 32_768
QUEUE_BACKOFF_MS = 10
SLICE_RECORDS = 16
NO_GROUP = "datastreamx-reader"
"""The client wants the name of a group even if it never uses it."""


def reading_properties(kafka: KafkaConfig, client_id: str, group: str, health: BrokerHealth) -> dict[str, Any]:
    """Properties of every consumer in this package.

    A full prefetch queue is looked at again after 10 ms instead of a second: the default pauses the flow for up to a
    second whenever it catches up faster than 100,000 records at a time (2.5 times slower when reading 400,000).
    librdkafka's own log lines are off, because `health` reports what they say, once.
    """
    return {
        "queued.max.messages.kbytes": PREFETCH_KBYTES,
        "fetch.queue.backoff.ms": QUEUE_BACKOFF_MS,
        "log_level": 2,
        **consumer_properties(kafka, client_id, group),
        "error_cb": health.failed,
    }


class PartitionReader:
    """Reads the partitions of a layout through one consumer. Not thread-safe.

    Broker trouble (no connection, leader moves, time-outs) makes `poll` return nothing until it is over.

    Args:
        client_id: How the brokers call this client in logs and quotas.
        group: Consumer group under which `commit` shows what is proven; `None`: nothing is shown and nobody is asked.
        pulse: Beats while the reader waits, and learns the lag.
        slack_ms: How far one topic of a partition may be read ahead of the others while these have more, by Kafka
            timestamps; unset: as far as it happens.
        until_ms: Each partition ends at its first record of this Kafka timestamp or a later one, which is not read.
    """

    def __init__(  # noqa: PLR0913 - all but two by name
        self,
        kafka: KafkaConfig,
        layout: Layout,
        *,
        client_id: str,
        group: str | None,
        pulse: Pulse | None = None,
        slack_ms: int | None = None,
        until_ms: int | None = None,
        outside: Outside | None = None,
    ) -> None:
        self._slack_ms = slack_ms
        self._until_ms = until_ms
        self._layout = layout
        self._client_id = client_id
        self._group = group
        self._pulse = pulse or Pulse()
        outside = outside or Outside()
        self._clock = outside.clock
        self._health = BrokerHealth(kafka.bootstrap)
        properties = reading_properties(kafka, client_id, group or NO_GROUP, self._health)
        self._consumer = outside.make_consumer({**properties, "on_commit": self._on_commit})
        self._queries = BrokerQueries(self._consumer, self._health, outside)
        self._tail = TailReader(self._consumer, self._queries, self._health, outside, self._pulse.beat)
        self._partitions: dict[PartitionId, PartitionState] = {}
        self._alignment: Alignment | None = None
        self._publish_at_s = 0.0
        self._has_committed = False
        self._is_closed = False

    @property
    def has_committed(self) -> bool:
        """Whether the brokers have confirmed a commit of this reader."""
        return self._has_committed

    @property
    def positions(self) -> dict[PartitionId, int]:
        """Next offset to read of every partition."""
        return {partition: state.next_offset for partition, state in self._partitions.items()}

    @property
    def caught_up(self) -> bool:
        """Whether every partition was read to the end that it had when the broker last answered, or to `until_ms`."""
        return all(state.has_ended for state in self._partitions.values())

    @property
    def is_over(self) -> bool:
        """Whether every partition was read to `until_ms`."""
        return all(state.is_over and state.has_ended for state in self._partitions.values())

    def progress(self) -> tuple[int, int]:
        """Records done since the start, and records to do in all; the latter is a lower bound and may grow."""
        done, known = zip(*(state.progress for state in self._partitions.values()), strict=True)
        return sum(done), sum(known)

    def start(self, origin: StartPosition | Mapping[PartitionId, int]) -> None:
        """Check the topics, choose the first offsets and begin to fetch. Blocks until the brokers have answered.

        Args:
            origin: Where a flow without state begins, or the positions of its snapshot.

        Raises:
            RetryableError: No broker answered in time.
            MissingTopicError: A topic does not exist.
            ConfigError: A topic has another number of partitions than configured.
            ExpiredOffsetError: The broker no longer holds, or never held, a wanted offset.
        """
        for topic in self._layout.topics:
            self._queries.require_topic(topic, self._layout.partition_count)
        owned = self._layout.owned
        watermarks = {partition: self._queries.watermarks(partition) for partition in owned}
        if isinstance(origin, StartPosition):
            first = self._first_offsets(origin, watermarks)
        else:
            first = {partition: origin[partition] for partition in owned}
        for partition, offset in first.items():
            self._require_held(partition, offset, watermarks[partition])
        self._partitions = {
            partition: PartitionState(offset, watermarks[partition].high, self._until_ms)
            for partition, offset in first.items()
        }
        if self._slack_ms is not None:
            self._alignment = Alignment(self._partitions, self._slack_ms, self._pause, self._resume)
        self._consumer.assign([TopicPartition(topic, number, offset) for (topic, number), offset in first.items()])
        _log.info("source.started", topics=self._layout.topics, partitions=len(self._layout.partitions))

    def poll(self, records_max: int, bytes_max: int | None = None) -> list[Run]:
        """What the client has fetched already, gathered by partition. Never blocks.

        Args:
            records_max: Most records to take from the client. With a slack, more may be returned of what had to wait.
            bytes_max: No more are taken when these are reached.

        Raises:
            ExpiredOffsetError: Retention deleted records before they were read.
            MissingTopicError: A topic was deleted.
        """
        messages = self._consume(records_max) if bytes_max is None else self._consume_sliced(records_max, bytes_max)
        fetched: list[Run] = []
        if messages:
            records = messages
            if any(map(Message.error, messages)):
                records = [message for message in messages if not self._is_event(message)]
            fetched = runs_of(records)
            for run in fetched:
                self._hold(run)
        if self._alignment is None:
            runs = [run._replace(messages=self._partitions[run[:2]].release(None)) for run in fetched]
            runs = [run for run in runs if run.messages]
        else:
            # An error about no partition in particular names none.
            touched = {message.partition() for message in messages}
            runs = self._alignment.release({number for number in touched if number is not None})
        self.tell_lag()
        return runs

    def tell_lag(self) -> None:
        """Bring the metrics up to date, once a second.

        `poll` does so. Who keeps the reader from being polled has to call this meanwhile: a lag that was told when all
        was well must not stand through an outage.
        """
        if not self._is_closed and self._clock.monotonic_s() >= self._publish_at_s:
            self._publish()

    def evidence(self) -> dict[PartitionId, Evidence]:
        """What the group has committed of the partitions of this reader; nothing without a group. Blocks.

        Raises:
            RetryableError: No broker answered in time.
        """
        return {} if self._group is None else self._queries.evidence(self._layout.owned)

    def commit(self, proven: Positions) -> None:
        """Show `proven` to lag tools and to the next start; asynchronous, and failures are only counted.

        Where to go on is not read back: that the recovery store alone says.
        """
        if self._group is None:
            return
        offsets = [
            TopicPartition(topic, number, offset, proven.lineages[number].metadata)
            for (topic, number), offset in proven.next_offsets.items()
        ]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as failure:
            SOURCE_ERRORS.labels(ANY_TOPIC, f"commit_{failure.args[0].name()}").inc()

    def close(self) -> None:
        """Publish the last counts and leave the brokers."""
        self._publish()
        self._is_closed = True
        self._consumer.close()

    def _first_offsets(
        self, start: StartPosition, watermarks: Mapping[PartitionId, Watermarks]
    ) -> dict[PartitionId, int]:
        at_time: Mapping[PartitionId, int | None] = {}
        if start.kind == "timestamp":
            for topic in self._layout.topics:
                owned = [(topic, partition) for partition in self._layout.partitions]
                at_time = {**at_time, **self._queries.offsets_at(owned, start.value)}
        return {
            partition: first_offset(start, marks, at_time.get(partition)) for partition, marks in watermarks.items()
        }

    def _require_held(self, partition: PartitionId, wanted: int, watermarks: Watermarks) -> None:
        if wanted < watermarks.low:
            raise expired(partition, wanted, watermarks.low)
        if wanted > watermarks.high:
            # Either the broker understates the end, or the log is shorter than it was: only reading tells.
            end = self._tail.end_of_log(partition)
            if wanted > end:
                raise beyond_end(partition, wanted, watermarks.low, end)

    def _is_event(self, message: Message) -> bool:
        """Deal with `message` if it is no record but an event about its partition."""
        error = message.error()
        if error is None:
            return False
        partition = (str(message.topic()), int(message.partition() or 0))
        code = error.code()
        if code == END_OF_PARTITION:
            self._health.answered()
            self._partitions[partition].ended(int(message.offset() or 0))
        elif code in OUT_OF_RANGE:
            self._raise_out_of_range(partition, error)
        elif code in MISSING_TOPIC:
            raise MissingTopicError(
                f"topic {partition[0]} was deleted while it was read ({error.str()}); create it with "
                "`datastreamx apply` and start with a new recovery store: the old offsets mean nothing in a new topic"
            )
        elif error.fatal():
            raise CrashError(f"{partition[0]}[{partition[1]}]: the Kafka client cannot go on: {error.str()}")
        else:
            self._health.failed(error, partition[0])
        return True

    def _raise_out_of_range(self, partition: PartitionId, error: KafkaError) -> None:
        wanted = self._partitions[partition].fetch_offset
        watermarks = self._queries.watermarks(partition)
        _log.error("source.out_of_range", topic=partition[0], partition=partition[1], error=error.str())
        if wanted < watermarks.low:
            raise expired(partition, wanted, watermarks.low)
        raise beyond_end(partition, wanted, *watermarks)

    def _consume(self, records_max: int) -> list[Message]:
        try:
            messages: list[Message] = self._consumer.consume(records_max, 0)
        except KafkaException as failure:
            self._health.failed(failure.args[0])
            return []
        return messages

    def _consume_sliced(self, records_max: int, bytes_max: int) -> list[Message]:
        """Small slices, because the client counts only records."""
        messages: list[Message] = []
        size = 0
        while len(messages) < records_max and size < bytes_max:
            some = self._consume(SLICE_RECORDS)
            if not some:
                break
            messages += some
            size += sum(map(len, some))
        return messages

    def _hold(self, run: Run) -> None:
        partition = (run.topic, run.partition)
        state = self._partitions[partition]
        was_over = state.is_over
        state.hold(run.messages)
        if state.is_over and not was_over:
            self._pause(partition)

    def _pause(self, partition: PartitionId) -> None:
        self._consumer.pause([TopicPartition(*partition)])

    def _resume(self, partition: PartitionId) -> None:
        self._consumer.resume([TopicPartition(*partition)])

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        error = error or next((one.error for one in partitions if one.error is not None), None)
        if error is None:
            self._has_committed = True
        else:
            SOURCE_ERRORS.labels(ANY_TOPIC, f"commit_{error.name()}").inc()

    def _publish(self) -> None:
        """Bring the metrics up to date. Once a second: labels cost more than reading a record does."""
        self._publish_at_s = self._clock.monotonic_s() + PUBLISH_INTERVAL_S
        now_ms = self._clock.now_ms()
        lag_records, lag_s = 0, 0.0
        for (topic, number), state in self._partitions.items():
            label = str(number)
            if state.records:
                self._health.answered()
                SOURCE_RECORDS.labels(topic, label).inc(state.records)
                SOURCE_BYTES.labels(topic, label).inc(state.bytes)
                state.records = state.bytes = 0
            marks = self._consumer.get_watermark_offsets(TopicPartition(topic, number), cached=True)
            # Not by the end that was met last: it is news only if somebody polls.
            lag = 0 if state.is_over or marks is None else max(0, marks[1] - state.next_offset)
            age_s = (now_ms - state.newest_ms) / 1000 if lag and state.newest_ms else 0.0
            SOURCE_LAG_RECORDS.labels(topic, label).set(lag)
            SOURCE_LAG_SECONDS.labels(topic, label).set(max(0.0, age_s))
            lag_records, lag_s = lag_records + lag, max(lag_s, age_s)
        self._pulse.lag(self._client_id, lag_records, int(lag_s * 1000))


MakeReader = Callable[[Layout, str], PartitionReader]
"""From what to read and the client id to a reader that was not started."""
