"""The decision log as memory: which opportunities of a partition have been decided already (decision 0004)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from datastreamx.config import Config
from datastreamx.log import get_logger
from datastreamx.model.auction import DecidedAuction
from datastreamx.wire.decisions import decode_decided
from sources.kafka.health import BrokerHealth
from sources.kafka.outside import Outside
from sources.kafka.queries import BrokerQueries
from sources.kafka.reader import reading_properties
from sources.kafka.tail import SilenceError, TailReader

_log = get_logger("decision_log")

PROGRESS_INTERVAL_S = 5.0
PREFETCH_KBYTES = 16_384
# The broker sits this out before it tells that a partition has ended, so many partitions want a short one.
HASTY_FETCH_WAIT_MS = 1
# The local broker looks through a partition for longer the longer it is. What takes it more than the wait of a fetch
# it answers with nothing, for ever.
PATIENT_FETCH_WAIT_MS = 500
HASTY_PATIENCE_S = 1.0


class _Connection(NamedTuple):
    consumer: Any
    tail: TailReader


class DecisionLog:
    """Reads back what was decided before a crash. Thread-safe: the workers of a process may share it.

    Keeps one connection: every key group reads back when it resumes, and a new consumer for each would take 50 ms
    instead of 5.

    Args:
        on_wait: Called a few times a second while it reads, for a heartbeat.
    """

    def __init__(
        self,
        config: Config,
        *,
        on_wait: Callable[[], None] = lambda: None,
        outside: Outside | None = None,
    ) -> None:
        self._kafka = config.kafka
        self._topic = config.topics.decisions
        self._partition_count = config.events.partitions
        self._outside = outside or Outside()
        self._on_wait = on_wait
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._is_hasty = True

    def read_back(self, partition: int, from_offset: int | None) -> list[DecidedAuction]:
        """Decided auctions in `partition` after `from_offset`, up to the end of the partition, in log order.

        Blocks. Holds about 900 bytes per auction of three aggregators and at most 16 MB of fetched records. What
        retention has deleted is missing from the answer; it is older than any event that could be replayed.

        Args:
            partition: Kafka partition of the decision topic; the same number as in box-events.
            from_offset: Highest offset that needs no reading; `None`: read all that the broker holds.

        Raises:
            MissingTopicError: The topic does not exist.
            ConfigError: It has another number of partitions than configured.
            RetryableError: The brokers did not answer, or stopped answering.
            CrashError: The partition holds a record that is no decision.
        """
        with self._lock:
            first = 0 if from_offset is None else from_offset + 1
            try:
                return self._decided(partition, first)
            except SilenceError:
                if not self._is_hasty:
                    raise
            self._is_hasty = False
            return self._decided(partition, first)

    def close(self) -> None:
        """Leave the brokers; a later `read_back` connects again."""
        with self._lock:
            self._disconnect()

    def _connected(self) -> _Connection:
        if self._connection is None:
            health = BrokerHealth(self._kafka.bootstrap)
            properties = reading_properties(self._kafka, "decision-log", "datastreamx-decision-log", health)
            properties["queued.max.messages.kbytes"] = PREFETCH_KBYTES
            properties["fetch.wait.max.ms"] = HASTY_FETCH_WAIT_MS if self._is_hasty else PATIENT_FETCH_WAIT_MS
            outside = self._outside
            if self._is_hasty:
                outside = replace(outside, silence_patience_s=min(HASTY_PATIENCE_S, outside.silence_patience_s))
            consumer = outside.make_consumer(properties)
            queries = BrokerQueries(consumer, health, outside)
            self._connection = _Connection(consumer, TailReader(consumer, queries, health, outside, self._on_wait))
            queries.require_topic(self._topic, self._partition_count)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.consumer.close()
            self._connection = None

    def _decided(self, partition: int, first: int) -> list[DecidedAuction]:
        """A connection that failed is not used again."""
        try:
            return self._read(self._connected().tail, partition, first)
        except BaseException:
            self._disconnect()
            raise

    def _read(self, tail: TailReader, partition: int, first: int) -> list[DecidedAuction]:
        found: list[DecidedAuction] = []
        report_at_s = self._outside.clock.monotonic_s() + PROGRESS_INTERVAL_S
        for messages in tail.records_from((self._topic, partition), first):
            found.extend(decode_decided(message.value() or b"") for message in messages)
            if self._outside.clock.monotonic_s() >= report_at_s:
                report_at_s = self._outside.clock.monotonic_s() + PROGRESS_INTERVAL_S
                _log.info("decision_log.reading", partition=partition, decisions=len(found), at=messages[-1].offset())
        return found
