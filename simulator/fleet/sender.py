"""Sends records for ever: whatever the broker does, each is acknowledged in the end, in order per box.

librdkafka's idempotent producer retries by itself without limit (`message.timeout.ms` is 0). What is left are errors
that it gives up on: the broker lost its idempotence state, the topic vanished. With `enable.gapless.guarantee` such an
error stops the producer before anything behind the gap gets through; a new producer then sends again all that was not
acknowledged, in the order in which it first was sent.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from datastreamx.clock import Clock
from datastreamx.config import KafkaConfig
from datastreamx.kafka import producer_properties
from datastreamx.log import get_logger
from simulator.fleet.faults import Record
from simulator.fleet.outages import OutageLog

RETRY_AFTER_S = 1.0
PURGE_TIMEOUT_S = 5.0
MAX_WAITING = 200_000
"""Records not yet acknowledged at which `is_full`: some 30 s of 300,000 boxes."""

OnDelivery = Callable[[KafkaError | None, Any], None]
Acknowledged = Callable[[Record, int, int], None]

_LOG = get_logger("fleet")


class KafkaProducer(Protocol):
    """The part of `confluent_kafka.Producer` that is used here."""

    def produce(self, topic: str, value: bytes | None, key: bytes, *, on_delivery: OnDelivery) -> None:
        """Queue one record; raises BufferError when the queue is full, KafkaException when the producer is dead."""

    def poll(self, timeout: float) -> int:
        """Run delivery callbacks."""

    def flush(self, timeout: float) -> int:
        """Wait for deliveries; returns how many are left."""

    def purge(self, *, in_queue: bool, in_flight: bool) -> None:
        """Give up what is not delivered; callbacks get an error."""


def make_producer(kafka: KafkaConfig, client_id: str, outages: OutageLog) -> KafkaProducer:
    """Idempotent producer without gaps, that places records as every Kafka client does by default."""
    producer: KafkaProducer = Producer(
        {
            **producer_properties(kafka, client_id),
            **outages.properties(),
            "partitioner": "murmur2_random",
            "enable.gapless.guarantee": True,
        }
    )
    return producer


class Sender:
    """Queue in front of the broker. Not thread-safe: callbacks run inside `poll`.

    Args:
        make: Makes a producer; called again when one has failed.
        acknowledged: Told of every record that the broker holds, with partition and offset.
    """

    def __init__(self, make: Callable[[], KafkaProducer], topic: str, acknowledged: Acknowledged, clock: Clock) -> None:
        self._make = make
        self._topic = topic
        self._acknowledged = acknowledged
        self._clock = clock
        self._producer = make()
        self._sent = 0
        self._in_flight = 0
        self._parked: deque[tuple[int, Record]] = deque()
        self._failed: list[tuple[int, Record]] = []
        self._first_error = ""
        self._resume_s = 0.0
        self.sent_again = 0

    @property
    def waiting(self) -> int:
        """Records that are not acknowledged."""
        return self._in_flight + len(self._parked) + len(self._failed)

    @property
    def is_full(self) -> bool:
        """Whether the caller should hold back until the broker has caught up."""
        return self.waiting >= MAX_WAITING

    def send(self, record: Record) -> None:
        """Queue a record. Never blocks and never fails."""
        self._sent += 1
        if self._parked or self._failed or not self._try(self._sent, record):
            self._parked.append((self._sent, record))

    def poll(self, timeout_s: float = 0.0) -> None:
        """Run delivery callbacks, replace a failed producer, and go on with what had to wait."""
        self._producer.poll(timeout_s)
        if self._failed:
            self._replace_producer()
        if self._parked and self._clock.monotonic_s() >= self._resume_s:
            self._resume()

    def flush(self, timeout_s: float) -> int:
        """Wait until all is acknowledged, but no longer than `timeout_s`; returns how many records are left."""
        ends_s = self._clock.monotonic_s() + timeout_s
        while self.waiting and self._clock.monotonic_s() < ends_s:
            self.poll(0.05)
            if not self._in_flight:
                time.sleep(0.05)  # poll returns at once from a producer that has nothing to report
        return self.waiting

    def _resume(self) -> None:
        while self._parked:
            number, record = self._parked[0]
            if not self._try(number, record):
                return
            self._parked.popleft()

    def _try(self, number: int, record: Record) -> bool:
        try:
            self._producer.produce(
                self._topic, record.value, record.key, on_delivery=partial(self._delivered, number, record)
            )
        except BufferError:
            return False
        except KafkaException as error:
            # The producer is dead; its outstanding records come back as failed with the next polls.
            self._failed.append((number, record))
            self._first_error = self._first_error or str(error)
            return True
        self._in_flight += 1
        return True

    def _delivered(self, number: int, record: Record, error: KafkaError | None, message: Any) -> None:
        self._in_flight -= 1
        if error is None:
            self._acknowledged(record, message.partition(), message.offset())
        else:
            self._failed.append((number, record))
            self._first_error = self._first_error or str(error)

    def _replace_producer(self) -> None:
        """Get everything back from the failed producer, and park it in the order in which it first was sent."""
        _LOG.warning("producer_replaced", error=self._first_error, retry_after_s=RETRY_AFTER_S)
        self._producer.purge(in_queue=True, in_flight=True)
        self._producer.flush(PURGE_TIMEOUT_S)
        self.sent_again += len(self._failed)
        self._parked = deque(sorted([*self._failed, *self._parked], key=lambda entry: entry[0]))
        self._failed = []
        self._first_error = ""
        self._in_flight = 0
        self._producer = self._make()
        self._resume_s = self._clock.monotonic_s() + RETRY_AFTER_S
