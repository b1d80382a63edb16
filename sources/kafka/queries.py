"""Questions to the brokers that a reader asks before it reads. They block; each is repeated for a bounded time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import OFFSET_END, KafkaError, KafkaException, TopicPartition

from datastreamx.errors import ConfigError, MissingTopicError, RetryableError
from sources.kafka.backoff import Backoff
from sources.kafka.codes import MISSING_TOPIC, TIMED_OUT
from sources.kafka.health import BrokerHealth
from sources.kafka.outside import Outside
from sources.kafka.start import PartitionId, Watermarks
from sources.kafka.witness import Evidence, parse_evidence

T = TypeVar("T")

ATTEMPT_TIMEOUT_S = 2.0


class BrokerQueries:
    """Metadata and offsets, asked through a consumer that is not reading yet.

    Args:
        consumer: A confluent-kafka `Consumer` whose `error_cb` is `health.failed`.
    """

    def __init__(self, consumer: Any, health: BrokerHealth, outside: Outside) -> None:
        self._consumer = consumer
        self._bootstrap = health.bootstrap
        self._health = health
        self._outside = outside

    def require_topic(self, topic: str, partition_count: int) -> None:
        """Check that `topic` exists with exactly `partition_count` partitions.

        Raises:
            MissingTopicError: The brokers do not know the topic.
            ConfigError: It has another number of partitions.
            RetryableError: No broker answers.
        """

        def ask() -> int:
            metadata = self._consumer.list_topics(topic, timeout=ATTEMPT_TIMEOUT_S).topics[topic]
            if metadata.error is not None:
                raise KafkaException(metadata.error)
            return len(metadata.partitions)

        try:
            found = self._ask(f"the partitions of {topic}", ask)
        except KafkaException as error:
            raise MissingTopicError(
                f"topic {topic} does not exist at {self._bootstrap} ({error.args[0].str()}); "
                "create it with `datastreamx apply`"
            ) from None
        if found != partition_count:
            raise ConfigError(
                f"topic {topic} at {self._bootstrap}",
                [
                    f"it has {found} partitions, events.partitions is {partition_count}: the count is fixed for ever, "
                    "because it decides which state a box belongs to; correct events.partitions or use another topic"
                ],
            )

    def watermarks(self, partition: PartitionId) -> Watermarks:
        """Earliest offset held and end of a partition, as the leader answers; see `Watermarks`."""
        topic, number = partition

        def ask() -> Watermarks:
            found = self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=ATTEMPT_TIMEOUT_S)
            if found is None:
                raise KafkaException(KafkaError(TIMED_OUT))
            return Watermarks(*found)

        return self._ask(f"the offsets of {topic}[{number}]", ask)

    def offsets_at(self, partitions: list[PartitionId], timestamp_ms: int) -> dict[PartitionId, int | None]:
        """First offset per partition whose record is not older than `timestamp_ms`; `None` where there is none.

        The local broker answers 0 whatever the time: reading starts too early there, never too late.
        """
        wanted = [TopicPartition(topic, number, timestamp_ms) for topic, number in partitions]

        def ask() -> dict[PartitionId, int | None]:
            answer = self._consumer.offsets_for_times(wanted, timeout=ATTEMPT_TIMEOUT_S)
            for one in answer:
                if one.error is not None:
                    raise KafkaException(one.error)
            return {(a.topic, a.partition): None if a.offset == OFFSET_END else a.offset for a in answer}

        return self._ask(f"the offsets at time {timestamp_ms}", ask)

    def evidence(self, partitions: list[PartitionId]) -> dict[PartitionId, Evidence]:
        """What the consumer's group has committed, as far as it has."""

        def ask() -> dict[PartitionId, Evidence]:
            wanted = [TopicPartition(*one) for one in partitions]
            answer = self._consumer.committed(wanted, timeout=ATTEMPT_TIMEOUT_S)
            found: dict[PartitionId, Evidence] = {}
            for one in answer:
                if one.error is not None:
                    raise KafkaException(one.error)
                told = parse_evidence(one.offset, one.metadata)
                if told is not None:
                    found[one.topic, one.partition] = told
            return found

        return self._ask("the offsets that the group has committed", ask)

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        """Repeat `call` until it answers; only a topic that does not exist is an answer in itself."""
        patience_s = self._outside.answer_patience_s
        backoff = Backoff(self._outside.rng)
        give_up_s = self._outside.clock.monotonic_s() + patience_s
        while True:
            try:
                return call()
            except KafkaException as failure:
                error: KafkaError = failure.args[0]
                # Serves `error_cb`, which knows the cause ("connection refused"); the failure itself is a time-out.
                self._consumer.poll(0)
                if error.code() in MISSING_TOPIC:
                    raise
                if self._outside.clock.monotonic_s() >= give_up_s:
                    raise RetryableError(
                        f"Kafka at {self._bootstrap} did not tell {what} within {patience_s:g} s: "
                        f"{self._health.last_error or error.str()}. Are the brokers up? Check kafka.bootstrap, "
                        "kafka.security_protocol and the network; then start again"
                    ) from None
                self._health.did_not_answer(error)
                self._outside.sleep(backoff.next_s())
