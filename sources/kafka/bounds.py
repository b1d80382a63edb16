"""Where in the log a span of time lies: asked before a replay reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Self

from datastreamx.config import KafkaConfig
from sources.kafka.health import BrokerHealth
from sources.kafka.outside import Outside
from sources.kafka.queries import BrokerQueries
from sources.kafka.reader import reading_properties


class Bounds(NamedTuple):
    """Offsets of one partition.

    `end` may be too low where `Watermarks.high` is, and `first` where the broker knows no times: then it is `earliest`.

    Attributes:
        earliest: The earliest that the broker holds.
        first: The first whose record is not older than the beginning of the span; `end` if there is none.
        end: Behind the last of the span.
    """

    earliest: int
    first: int
    end: int


class LogSurvey:
    """Asks the brokers; blocks. Use it as a context manager."""

    def __init__(self, kafka: KafkaConfig, outside: Outside | None = None) -> None:
        outside = outside or Outside()
        health = BrokerHealth(kafka.bootstrap)
        self._consumer = outside.make_consumer(
            reading_properties(kafka, "datastreamx-survey", "datastreamx-survey", health)
        )
        self._queries = BrokerQueries(self._consumer, health, outside)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def bounds(
        self, topic: str, partitions: Iterable[int], partition_count: int, from_ms: int | None, until_ms: int | None
    ) -> dict[int, Bounds]:
        """Bounds of a span in each of `partitions`.

        Args:
            topic: Has to have `partition_count` partitions.
            partitions: Those asked about.
            partition_count: As configured.
            from_ms: Kafka timestamp at which the span begins; unset: at the earliest record.
            until_ms: At which it ends; unset: at the end of the log.

        Raises:
            MissingTopicError: The topic does not exist.
            ConfigError: It has another number of partitions.
            RetryableError: The brokers did not answer in time.
        """
        self._queries.require_topic(topic, partition_count)
        wanted = [(topic, partition) for partition in partitions]
        begins = self._queries.offsets_at(wanted, from_ms) if from_ms is not None else {}
        ends = self._queries.offsets_at(wanted, until_ms) if until_ms is not None else {}
        found = {}
        for partition in wanted:
            low, high = self._queries.watermarks(partition)
            end = ends.get(partition)
            # A broker that answers 0 for every time means the earliest, also as the end; then only the end is right.
            end = high if end is None or end <= low else max(low, end)
            first = begins.get(partition, low)
            first = end if first is None else min(max(low, first), end)
            found[partition[1]] = Bounds(low, first, end)
        return found
