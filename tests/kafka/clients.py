"""Plain clients that the tests of a Kafka broker share."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from datastreamx.errors import CrashError

from .properties import MESSAGE_BYTES_MAX

_TIMEOUT_S = 60.0
_REQUEST_TIMEOUT_S = 10.0
_RETRY_INTERVAL_S = 0.05
_POLL_S = 1.0


def make_producer(bootstrap: str, settings: Mapping[str, str | int] | None = None) -> Producer:
    """Return an idempotent producer that waits for all in-sync replicas; `settings` add to or replace its own."""
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "message.max.bytes": MESSAGE_BYTES_MAX,
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
            **(settings or {}),
        }
    )


def make_consumer(bootstrap: str, group: str = "tests") -> Consumer:
    """Return a consumer that reports an expired offset instead of jumping over it, and commits only when told."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
        }
    )


def produce_all(bootstrap: str, topic: str, values: Iterable[bytes], *, timestamps_ms: Iterable[int] = ()) -> None:
    """Write values to partition 0 and return when all are acknowledged.

    Args:
        bootstrap: The cluster.
        topic: An existing topic.
        values: The records, in order.
        timestamps_ms: One per value; the present time where it ends.

    Raises:
        CrashError: A delivery failed.
    """
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error)

    producer = make_producer(bootstrap)
    timestamps = iter(timestamps_ms)
    for value in values:
        producer.produce(topic, value, partition=0, on_delivery=delivered, timestamp=next(timestamps, 0))
    left = producer.flush(_TIMEOUT_S)
    if failed or left:
        raise CrashError(f"{topic}: {len(failed)} deliveries failed, {left} are unanswered; first: {failed[:1]}")


def poll_one(consumer: Consumer) -> Message:
    """Return the next message of a consumer, which may be an error event.

    Raises:
        CrashError: Nothing came in time.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        message = consumer.poll(_POLL_S)
        if message is not None:
            return message
    raise CrashError(f"no message within {_TIMEOUT_S} s on {consumer.assignment()}")


def end_offset(consumer: Consumer, topic: str, partition: int = 0) -> int:
    """Return the offset that the next record of a partition gets.

    The client retries this request twice and no more, so shortly after a broker was lost it fails with whatever met
    it (not leader, no transport, a handle that was replaced); hence the loop.

    Raises:
        KafkaException: It failed until the time was over.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_REQUEST_TIMEOUT_S)
        except KafkaException:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_INTERVAL_S)
        else:
            return end


def read_partition(bootstrap: str, topic: str, partition: int = 0) -> list[tuple[int, bytes]]:
    """Return (offset, value) of every record from the start to the present end of a partition.

    Raises:
        CrashError: The broker reported an error, or the end was not reached in time.
    """
    consumer = make_consumer(bootstrap)
    try:
        end = end_offset(consumer, topic, partition)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        records: list[tuple[int, bytes]] = []
        while not records or records[-1][0] < end - 1:
            message = poll_one(consumer)
            if (error := message.error()) is not None:
                raise CrashError(f"reading {topic}[{partition}] after {records[-1:]}: {error}")
            records.append(position(message))
        return records
    finally:
        consumer.close()


def position(message: Message) -> tuple[int, bytes]:
    """Return the offset and the value of a message that came from, or went to, a broker."""
    offset, value = message.offset(), message.value()
    if offset is None or value is None:
        raise CrashError(f"a message of {message.topic()}[{message.partition()}] lacks its offset or its value")
    return offset, value
