"""Reads ad-decisions in a thread of its own, so that a burst of events does not delay the stamp of a push."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from datastreamx.clock import Clock
from datastreamx.errors import CrashError
from datastreamx.log import get_logger
from datastreamx.model.auction import Decision
from datastreamx.wire.decisions import decode_decision

BATCH_RECORDS = 500
POLL_S = 0.1
MAX_BATCHES = 1_000

_LOG = get_logger("fleet")

Batch = tuple[int, list[Decision]]


class Receiver:
    """All partitions of ad-decisions from their beginning.

    A partition whose start was deleted meanwhile is read again from what is left; records read before are skipped.

    Args:
        make: Makes the consumer (a consumer must be made and closed by the thread that polls it).
    """

    def __init__(self, make: Callable[[], Consumer], topic: str, partitions: int, clock: Clock) -> None:
        self._make = make
        self._topic = topic
        self._clock = clock
        self._next_offsets = [0] * partitions
        self._batches: queue.Queue[Batch] = queue.Queue(MAX_BATCHES)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fleet-receiver", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; what was read before can still be received."""
        self._stop.set()
        self._thread.join()

    def received(self) -> Iterator[Batch]:
        """What has arrived since the last call: wall clock of the arrival, and decisions.

        Raises:
            CrashError: The topic holds something that is no decision, or the reader failed.
        """
        while True:
            try:
                yield self._batches.get_nowait()
            except queue.Empty:
                break
        if self._error is not None:
            if isinstance(self._error, CrashError):
                raise self._error
            raise CrashError(f"reading {self._topic} failed: {self._error!r}") from self._error

    def _run(self) -> None:
        try:
            consumer = self._make()
            try:
                partitions = range(len(self._next_offsets))
                consumer.assign([TopicPartition(self._topic, p, OFFSET_BEGINNING) for p in partitions])
                while not self._stop.is_set():
                    self._read(consumer)
            finally:
                consumer.close()
        except BaseException as error:  # noqa: BLE001  handed to the main thread, which raises it
            self._error = error

    def _read(self, consumer: Consumer) -> None:
        # `consume` alone would wait for a full batch; its time-out would show in every latency.
        first = consumer.poll(POLL_S)
        if first is None:
            return
        messages = [first, *consumer.consume(BATCH_RECORDS, 0)]
        received_ms = self._clock.now_ms()
        decisions = [decode_decision(m.value() or b"") for m in messages if self._is_new_record(consumer, m)]
        while decisions and not self._stop.is_set():
            try:
                self._batches.put((received_ms, decisions), timeout=POLL_S)
            except queue.Full:
                continue
            return

    def _is_new_record(self, consumer: Consumer, message: Message) -> bool:
        partition, offset, error = message.partition(), message.offset(), message.error()
        if error is not None:
            self._handle(consumer, error, partition)
            return False
        if partition is None or offset is None or offset < self._next_offsets[partition]:
            return False
        self._next_offsets[partition] = offset + 1
        return True

    def _handle(self, consumer: Consumer, error: KafkaError, partition: int | None) -> None:
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  its public name
            return
        if error.code() in {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE} and partition is not None:  # noqa: SLF001  likewise
            consumer.seek(TopicPartition(self._topic, partition, OFFSET_BEGINNING))
            return
        # librdkafka goes on by itself as soon as the broker is back.
        _LOG.warning("decisions_unavailable", error=str(error))
