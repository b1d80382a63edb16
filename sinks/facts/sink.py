"""The Bytewax sink of facts."""

from __future__ import annotations

from collections.abc import Iterable

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from datastreamx.clock import Clock
from datastreamx.config import Config
from datastreamx.model.facts import Facts
from datastreamx.model.keygroup import KeyGroup
from datastreamx.wire.facts import FactBatch, encode_facts
from sinks.facts.coalesce import Coalescer
from sinks.kafka.outside import Outside
from sinks.kafka.prepared import Prepared
from sinks.kafka.producer import SettlingProducer, connected_producer

PART = "facts"


class FactsSink(FixedPartitionedSink[Facts, bytes | None]):
    """Takes `(KeyGroup.key, Facts)` and writes coalesced batches to `topics.facts`, partition = source partition.

    A batch waits at most 200 ms while others arrive, else until the next snapshot, which always sends and settles.
    """

    def __init__(self, config: Config, outside: Outside | None = None) -> None:
        self._topic = config.topics.facts
        self._outside = outside or Outside()
        self._producer = Prepared(lambda: connected_producer(config, self._topic, "datastreamx-facts", self._outside))

    def connect(self) -> None:
        """Connect before the first item, so that it does not have to wait.

        Raises:
            MissingTopicError: The topic does not exist.
            ConfigError: It has another number of partitions than configured.
            RetryableError: No broker answers.
        """
        self._producer.prepare()

    def list_parts(self) -> list[str]:
        """One: a producer serves any number of partitions."""
        return [PART]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> FactsPartition:  # noqa: ARG002  there is no state
        """Begin to write; connects unless `connect` has done so, and raises the same."""
        return FactsPartition(self._producer.take(), self._topic, self._outside.clock)


class FactsPartition(StatefulSinkPartition[Facts, bytes | None]):
    """One producer and what waits for it."""

    def __init__(self, producer: SettlingProducer, topic: str, clock: Clock) -> None:
        self._producer = producer
        self._topic = topic
        self._clock = clock
        self._waiting = Coalescer()

    def write_batch(self, values: list[Facts]) -> None:
        """Coalesce, send what is full or old enough; waits only while the local queue is full."""
        now_s = self._clock.monotonic_s()
        for facts in values:
            self._send(self._waiting.add(facts, now_s))
        self._send(self._waiting.due(now_s))
        self._producer.poll()

    def snapshot(self) -> None:
        """Send all and wait until it is acknowledged. There is nothing to remember: a replay repeats the rows."""
        self._send(self._waiting.drain())
        self._producer.settle()

    def close(self) -> None:
        """Settle and leave the brokers."""
        self._send(self._waiting.drain())
        self._producer.close()

    def _send(self, batches: Iterable[FactBatch]) -> None:
        for facts in batches:
            value, headers = encode_facts(facts)
            self._producer.send(
                self._topic,
                partition=facts.partition,
                key=KeyGroup(facts.partition, facts.group).key.encode(),
                value=value,
                headers=headers,
            )
