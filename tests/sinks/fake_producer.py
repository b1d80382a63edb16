"""A producer whose broker does what the test says, with the reports that a real one would give."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message

from datastreamx.clock import ManualClock
from sinks.kafka.outside import Outside

Report = Callable[[KafkaError | None, Message], None]


class Sent(NamedTuple):
    """A message that librdkafka holds or the broker has."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class FakeBroker:
    """Holds the logs. A client is made for each `Outside.make_producer`.

    Attributes:
        is_up: While false nothing is acknowledged.
        queue_max: Messages that a client holds before it raises BufferError.
        refusals: Consumed one per message that is about to be stored: an error fails it and the client, as gap-less
            delivery does; `None` lets it pass.
        topics: Partition count of each topic.
    """

    def __init__(self) -> None:
        self.logs: dict[tuple[str, int], list[Sent]] = defaultdict(list)
        self.is_up = True
        self.queue_max = 10_000
        self.refusals: list[KafkaError | None] = []
        self.topics = {"t": 4}
        self.clients: list[FakeProducer] = []
        self.clock = ManualClock()
        self.waits = 0
        self.sleeps: list[float] = []

    def outside(self) -> Outside:
        def make_producer(properties: dict[str, Any]) -> FakeProducer:
            self.clients.append(FakeProducer(self, properties))
            return self.clients[-1]

        def sleep(seconds: float) -> None:
            self.sleeps.append(seconds)
            self.clock.advance(round(seconds * 1000))

        def on_wait() -> None:
            self.waits += 1

        return Outside(
            clock=self.clock, rng=random.Random(5), sleep=sleep, on_wait=on_wait, make_producer=make_producer
        )

    def values(self, topic: str = "t", partition: int = 0) -> list[bytes | None]:
        return [sent.value for sent in self.logs[topic, partition]]


class FakeProducer:
    def __init__(self, broker: FakeBroker, properties: dict[str, Any]) -> None:
        self.properties = properties
        self.is_closed = False
        self._broker = broker
        self._held: list[tuple[Sent, Report]] = []
        self._reports: list[tuple[KafkaError | None, Message, Report]] = []
        self._has_failed = False

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        *,
        partition: int = 0,
        headers: list[tuple[str, bytes]],
        on_delivery: Report,
        timestamp: int = 0,
    ) -> None:
        assert not self.is_closed
        assert timestamp >= 0
        if self._has_failed:
            raise KafkaException(KafkaError(KafkaError._FATAL))
        if len(value or b"") > self.properties["message.max.bytes"]:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        if len(self._held) >= self._broker.queue_max:
            raise BufferError
        self._held.append((Sent(topic, partition, key, value, headers), on_delivery))

    def poll(self, timeout: float) -> None:
        self._broker.clock.advance(round(timeout * 1000))
        self._deliver()
        reports, self._reports = self._reports, []
        for error, message, report in reports:
            report(error, message)

    def flush(self, timeout: float) -> int:
        self.poll(timeout)
        return len(self._held)

    def purge(self) -> None:
        for sent, report in self._held:
            self._reports.append((KafkaError(KafkaError._PURGE_QUEUE), _message(sent, -1), report))
        self._held.clear()

    def close(self) -> None:
        assert not self._reports, "reports must be served before the client goes"
        self.is_closed = True

    def list_topics(self, timeout: float) -> Any:
        if not self._broker.is_up:
            self._broker.clock.advance(round(timeout * 1000))
            self.properties["error_cb"](KafkaError(KafkaError._TRANSPORT, "connection refused"))
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        topics = {name: SimpleNamespace(partitions=dict.fromkeys(range(n))) for name, n in self._broker.topics.items()}
        return SimpleNamespace(topics=topics)

    def _deliver(self) -> None:
        if not self._broker.is_up or self._has_failed:
            return
        while self._held:
            refusal = self._broker.refusals.pop(0) if self._broker.refusals else None
            sent, report = self._held.pop(0)
            if refusal is not None:
                self._has_failed = True
                self._reports.append((refusal, _message(sent, -1), report))
                return
            log = self._broker.logs[sent.topic, sent.partition]
            log.append(sent)
            self._reports.append((None, _message(sent, len(log) - 1), report))


def _message(sent: Sent, offset: int) -> Message:
    return Message(topic=sent.topic, partition=sent.partition, offset=offset, key=sent.key, value=sent.value)
