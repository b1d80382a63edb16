"""The Bytewax sink of decisions."""

from __future__ import annotations

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from datastreamx.acks import AckedOffsets
from datastreamx.config import Config
from datastreamx.model.auction import Decision
from datastreamx.wire.decisions import encode_decision
from sinks.ad_push.snapshot import decode_acked, encode_acked
from sinks.kafka.outside import Outside
from sinks.kafka.prepared import Prepared
from sinks.kafka.producer import SettlingProducer, connected_producer

PART = "ad-push"


class AdPushSink(FixedPartitionedSink[Decision, bytes]):
    """Takes `(KeyGroup.key, Decision)` and writes each at once to `topics.decisions`, in the box's own partition.

    Args:
        acked: Learns the offset of each acknowledged decision, and on resume those of the snapshot.
    """

    def __init__(self, config: Config, acked: AckedOffsets, outside: Outside | None = None) -> None:
        self._topic = config.topics.decisions
        self._acked = acked
        self._producer = Prepared(
            lambda: connected_producer(config, self._topic, "datastreamx-ad-push", outside or Outside())
        )

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

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> AdPushPartition:  # noqa: ARG002  one part
        """Begin to write; connects unless `connect` has done so, and raises the same.

        Raises:
            StateMismatchError: The snapshot belongs to another topic.
        """
        if resume_state is not None:
            for partition, offset in decode_acked(resume_state, self._topic).items():
                self._acked.record(partition, offset)
        return AdPushPartition(self._producer.take(), self._topic, self._acked)


class AdPushPartition(StatefulSinkPartition[Decision, bytes]):
    """One producer."""

    def __init__(self, producer: SettlingProducer, topic: str, acked: AckedOffsets) -> None:
        self._producer = producer
        self._topic = topic
        self._acked = acked

    def write_batch(self, values: list[Decision]) -> None:
        """Send; waits only while the local queue is full."""
        for decision in values:
            self._producer.send(
                self._topic,
                partition=decision.partition,
                key=decision.box_id.encode(),
                value=encode_decision(decision),
                on_ack=self._acked.record,
            )
        self._producer.poll()

    def snapshot(self) -> bytes:
        """Wait until all decisions are acknowledged; the offsets up to which they are."""
        self._producer.settle()
        return encode_acked(self._topic, self._acked.snapshot())

    def close(self) -> None:
        """Settle and leave the brokers."""
        self._producer.close()
