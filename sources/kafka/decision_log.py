"""The decision log as memory: which opportunities of a partition have been decided already (decision D5)."""

from __future__ import annotations

from collections.abc import Callable

from datastreamx.config import Config
from datastreamx.log import get_logger
from datastreamx.model.auction import DecidedAuction
from datastreamx.wire.decisions import decode_decided
from sources.kafka.health import BrokerHealth
from sources.kafka.outside import Outside
from sources.kafka.queries import BrokerQueries
from sources.kafka.reader import reading_properties
from sources.kafka.tail import TailReader

_log = get_logger("decision_log")

PROGRESS_INTERVAL_S = 5.0
PREFETCH_KBYTES = 16_384


class DecisionLog:
    """Reads back what was decided before a crash.

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

    def read_back(self, partition: int, from_offset: int | None) -> list[DecidedAuction]:
        """Decided auctions in `partition` after `from_offset`, up to the end of the partition, in log order.

        Blocks, with a consumer of its own. Holds about 200 bytes per auction and at most 16 MB of fetched records. What
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
        health = BrokerHealth(self._kafka.bootstrap)
        properties = reading_properties(self._kafka, f"decision-log-{partition}", "datastreamx-decision-log", health)
        properties["queued.max.messages.kbytes"] = PREFETCH_KBYTES
        consumer = self._outside.make_consumer(properties)
        queries = BrokerQueries(consumer, health, self._outside)
        tail = TailReader(consumer, queries, health, self._outside, self._on_wait)
        try:
            queries.require_topic(self._topic, self._partition_count)
            return self._decided(tail, partition, 0 if from_offset is None else from_offset + 1)
        finally:
            consumer.close()

    def _decided(self, tail: TailReader, partition: int, first: int) -> list[DecidedAuction]:
        found: list[DecidedAuction] = []
        report_at_s = self._outside.clock.monotonic_s() + PROGRESS_INTERVAL_S
        for messages in tail.records_from((self._topic, partition), first):
            found.extend(decode_decided(message.value() or b"") for message in messages)
            if self._outside.clock.monotonic_s() >= report_at_s:
                report_at_s = self._outside.clock.monotonic_s() + PROGRESS_INTERVAL_S
                _log.info("decision_log.reading", partition=partition, decisions=len(found), at=messages[-1].offset())
        return found
