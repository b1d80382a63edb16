"""Read one partition up to its end, as the partition-EOF event tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from datastreamx.errors import RetryableError
from sources.kafka.codes import END_OF_PARTITION, OUT_OF_RANGE
from sources.kafka.health import BrokerHealth
from sources.kafka.outside import Outside
from sources.kafka.queries import BrokerQueries
from sources.kafka.start import PartitionId, Watermarks

POLL_RECORDS = 2_000
POLL_TIMEOUT_S = 0.2


class SilenceError(RetryableError):
    """A partition gives neither records nor its end."""


class TailReader:
    """Reads the rest of one partition at a time; blocks. Leaves the consumer without an assignment.

    The end is where an EOF event says it is *and* not before the end offset asked for at the start. Neither is enough
    alone: the local broker understates end offsets, and right after a leader moved Kafka may serve an EOF below
    records that it has acknowledged already, while it holds back the end offset until it is right again (KIP-207).

    Args:
        on_wait: Called at least every 0.2 s while it waits, for a heartbeat.
    """

    def __init__(
        self,
        consumer: Any,
        queries: BrokerQueries,
        health: BrokerHealth,
        outside: Outside,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._consumer = consumer
        self._queries = queries
        self._health = health
        self._clock = outside.clock
        self._patience_s = outside.silence_patience_s
        self._on_wait = on_wait
        self._end = -1

    def end_of_log(self, partition: PartitionId) -> int:
        """Offset after the last record, found by reading what lies behind the end that the broker reports."""
        for _ in self.records_from(partition, self._queries.watermarks(partition).high):
            pass
        return self._end

    def records_from(self, partition: PartitionId, first: int) -> Iterator[list[Message]]:
        """Records from offset `first` to the end, in log order; from the earliest held if `first` has expired.

        A `first` beyond the end gives nothing.

        Raises:
            SilenceError: Nothing came for `silence_patience_s`.
            RetryableError: The brokers did not answer.
        """
        marks = self._queries.watermarks(partition)
        try:
            self._begin(partition, first, marks)
            yield from self._to_end(partition, first, marks)
        finally:
            self._consumer.unassign()

    def _begin(self, partition: PartitionId, first: int, marks: Watermarks) -> None:
        # Beyond the end the local broker would never answer: begin where there surely is a record or an end.
        start = max(marks.low, min(first, marks.high - 1))
        self._consumer.assign([TopicPartition(*partition, start)])

    def _to_end(self, partition: PartitionId, first: int, marks: Watermarks) -> Iterator[list[Message]]:
        give_up_s = self._clock.monotonic_s() + self._patience_s
        while True:
            messages = self._consume()
            self._on_wait()
            records = [m for m in messages if m.error() is None]
            wanted = [m for m in records if int(m.offset() or 0) >= first]
            if wanted:
                yield wanted
            events = [(m, error) for m in messages if (error := m.error()) is not None]
            ends = [int(m.offset() or 0) for m, error in events if error.code() == END_OF_PARTITION]
            if records or ends:
                self._health.answered()
                give_up_s = self._clock.monotonic_s() + self._patience_s
            if ends and ends[-1] >= marks.high:
                self._end = ends[-1]
                return
            for _, error in events:
                if error.code() in OUT_OF_RANGE:
                    # Retention overtook us between the question and the fetch.
                    marks = self._queries.watermarks(partition)
                    self._begin(partition, first, marks)
                elif error.code() != END_OF_PARTITION:
                    self._health.failed(error, partition[0])
            if self._clock.monotonic_s() >= give_up_s:
                why = self._health.last_error or "no error was reported"
                raise SilenceError(
                    f"{partition[0]}[{partition[1]}] at {self._health.bootstrap} was silent for {self._patience_s:g} s "
                    f"before its end was reached: {why}. Are the brokers up? Start again when they are"
                )

    def _consume(self) -> list[Message]:
        """What has come, or wait for one: asking for many would sit out the time-out for the rest of them."""
        try:
            messages: list[Message] = self._consumer.consume(1, POLL_TIMEOUT_S)
            if messages:
                messages += self._consumer.consume(POLL_RECORDS, 0)
        except KafkaException as failure:
            error: KafkaError = failure.args[0]
            self._health.failed(error)
            return []
        return messages
