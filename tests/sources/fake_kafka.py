"""A consumer that answers from lists, and the messages that a real one would return."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from datastreamx.clock import ManualClock
from sources.kafka.outside import Outside
from sources.kafka.positions import Layout

TOPIC = "events"
EOF = KafkaError._PARTITION_EOF
LAYOUT = Layout(topics=(TOPIC,), partitions=(0, 1), partition_count=2, groups_per_partition=2)


def record(
    offset: int,
    *,
    partition: int = 0,
    key: bytes | None = b"stb-1",
    value: bytes | None = b"{}",
    topic: str = TOPIC,
    timestamp_ms: int = 1_700_000_000_000,
    headers: list[tuple[str, str | bytes | None]] | None = None,
) -> Message:
    return Message(
        topic=topic,
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        headers=headers,
        timestamp=(1, timestamp_ms),
    )


def event(code: int, *, partition: int = 0, offset: int = -1, topic: str = TOPIC) -> Message:
    """What a consumer returns in place of a record: an error, or the end of a partition."""
    return Message(topic=topic, partition=partition, offset=offset, error=KafkaError(code))


def end(offset: int, *, partition: int = 0, topic: str = TOPIC) -> Message:
    return event(EOF, partition=partition, offset=offset, topic=topic)


class FakeConsumer:
    """Returns `polls` one after the other, then nothing. An exception in place of an answer is raised.

    Each `consume` advances `clock` by its time-out, or by 1 ms.
    """

    def __init__(
        self,
        *,
        polls: list[list[Message] | KafkaException] | None = None,
        watermarks: dict[int, tuple[int, int]] | None = None,
        topics: dict[str, int] | None = None,
        clock: ManualClock | None = None,
    ) -> None:
        self.polls = list(polls or [])
        self.watermarks = watermarks or {0: (0, 0), 1: (0, 0)}
        self.topics = topics or {TOPIC: 2}
        self.at_time: dict[int, int] = {}
        self.failures: list[KafkaException] = []
        self.assigned: list[TopicPartition] = []
        self.commits: list[list[TopicPartition]] = []
        self.evidence: dict[tuple[str, int], tuple[int, str | None]] = {}
        self.paused: set[tuple[str, int]] = set()
        self.closed = False
        self.confirms = True
        self.clock = clock or ManualClock()
        self.properties: dict[str, Any] = {}

    def outside(self, **changes: Any) -> Outside:
        def make_consumer(properties: dict[str, Any]) -> FakeConsumer:
            self.properties = properties
            return self

        def sleep(seconds: float) -> None:
            self.clock.advance(round(seconds * 1000))

        return Outside(
            **{
                "clock": self.clock,
                "rng": random.Random(7),
                "sleep": sleep,
                "make_consumer": make_consumer,
                **changes,
            }
        )

    def consume(self, count: int, timeout: float) -> list[Message]:
        self.clock.advance(max(1, round(timeout * 1000)))
        if not self.polls:
            return []
        answer = self.polls.pop(0)
        if isinstance(answer, KafkaException):
            raise answer
        if len(answer) > count:
            self.polls.insert(0, answer[count:])
        return answer[:count]

    def poll(self, timeout: float) -> None:
        self.clock.advance(round(timeout * 1000))

    def list_topics(self, topic: str, timeout: float) -> Any:
        self._maybe_fail(timeout)
        if topic not in self.topics:
            error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
            return SimpleNamespace(topics={topic: SimpleNamespace(error=error, partitions={})})
        partitions = dict.fromkeys(range(self.topics[topic]))
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None, partitions=partitions)})

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float = 0, *, cached: bool = False
    ) -> tuple[int, int]:
        if not cached:
            self._maybe_fail(timeout)
        return self.watermarks[partition.partition]

    def offsets_for_times(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self._maybe_fail(timeout)
        return [TopicPartition(one.topic, one.partition, self.at_time[one.partition]) for one in partitions]

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.assigned = partitions

    def unassign(self) -> None:
        self.assigned = []

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused |= {(one.topic, one.partition) for one in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused -= {(one.topic, one.partition) for one in partitions}

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        self._maybe_fail(0)
        self.commits.append(offsets)
        for one in offsets:
            self.evidence[one.topic, one.partition] = (one.offset, one.metadata)
        if self.confirms:
            self.properties["on_commit"](None, offsets)

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self._maybe_fail(timeout)
        return [
            TopicPartition(one.topic, one.partition, *self.evidence.get((one.topic, one.partition), (-1001, "")))
            for one in partitions
        ]

    def close(self) -> None:
        self.closed = True

    def _maybe_fail(self, timeout: float) -> None:
        if self.failures:
            self.clock.advance(round(timeout * 1000))
            raise self.failures.pop(0)


def failure(code: int) -> KafkaException:
    return KafkaException(KafkaError(code))
