"""A producer that forgets nothing before the broker has acknowledged it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message

from datastreamx.config import Config, KafkaConfig
from datastreamx.errors import ConfigError, CrashError, MissingTopicError, RetryableError
from datastreamx.kafka import Properties, producer_properties
from datastreamx.log import get_logger
from datastreamx.metrics import SINK_ERRORS, SINK_MESSAGES
from sinks.kafka.codes import ALL_BROKERS_DOWN, HOPELESS, TOO_LARGE, UNKNOWN_PARTITION
from sinks.kafka.outside import Outside

_log = get_logger("sink")

ANY_TOPIC = "all"
"""Topic label of errors that concern a broker and not one topic."""

QUEUE_KBYTES = 65_536
WAIT_SLICE_S = 0.2
METADATA_TIMEOUT_S = 2.0
SLOW_SETTLE_S = 5.0
LONGEST_PAUSE_S = 2.0

OnAck = Callable[[int, int], None]
"""Called with (partition, offset) once the broker has acknowledged a message."""


class _Unacked(NamedTuple):
    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    timestamp_ms: int | None
    on_ack: OnAck | None


class _Failure(NamedTuple):
    """Why the client has to be replaced; `message` is the one that failed, if one did."""

    error: KafkaError
    message: _Unacked | None


class SettlingProducer:
    """Idempotent producer: what was sent stays here until it is acknowledged. Not thread-safe.

    librdkafka retries for ever whatever can be retried, and keeps the order. What it gives up (a fatal error of the
    idempotent producer, or a message that failed for good) would be lost or overtaken; therefore the whole client is
    replaced then and everything unacknowledged is sent again in the original order. Some of it may have arrived
    before: delivery is at least once, and no message overtakes the first copy of an earlier one of its partition.

    Args:
        client_id: How the brokers call this client in logs and quotas.
    """

    def __init__(self, kafka: KafkaConfig, client_id: str, outside: Outside | None = None) -> None:
        self._bootstrap = kafka.bootstrap
        self._outside = outside or Outside()
        self._properties: Properties = {
            # A message that failed must stop those behind it, or they would overtake it.
            "enable.gapless.guarantee": True,
            # Beyond this `send` waits: bounded memory.
            "queue.buffering.max.kbytes": QUEUE_KBYTES,
            # librdkafka's own log lines are off, because the same is reported here, once.
            "log_level": 2,
            **producer_properties(kafka, client_id),
            "error_cb": self._on_error,
        }
        self._unacked: dict[int, _Unacked] = {}
        self._numbers = itertools.count()
        self._acked: Counter[str] = Counter()
        self._failure: _Failure | None = None
        self._generation = 0
        self._replaced_in_vain = 0
        self._last_error: str | None = None
        self._client = self._outside.make_producer(self._properties)

    def require_topic(self, topic: str, partition_count: int | None = None) -> None:
        """Check that `topic` exists; call before the first `send`, because producing could create it by accident.

        Args:
            topic: Name of the topic.
            partition_count: How many partitions it must have; `None`: any number.

        Raises:
            MissingTopicError: The brokers do not know it.
            ConfigError: It has another number of partitions.
            RetryableError: No broker answers.
        """
        # All topics: asking for one by name is what lets a broker create it.
        found = self._partition_counts().get(topic)
        if found is None:
            raise MissingTopicError(
                f"topic {topic} does not exist at {self._bootstrap}; create it with `datastreamx apply`"
            )
        if partition_count is not None and found != partition_count:
            raise ConfigError(
                f"topic {topic} at {self._bootstrap}",
                [f"it has {found} partitions, events.partitions is {partition_count}; they must agree for ever"],
            )

    def send(  # noqa: PLR0913  the parts of a Kafka message
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        headers: list[tuple[str, bytes]] | None = None,
        timestamp_ms: int | None = None,
        on_ack: OnAck | None = None,
    ) -> None:
        """Hand a message over; waits only while the local queue is full.

        Args:
            topic: Where to.
            key: Record key.
            value: Record value.
            partition: `None` leaves it to the hash of the key.
            headers: Record headers, in order.
            timestamp_ms: Record timestamp; `None`: now.
            on_ack: Called from a later `send`, `poll` or `settle` of this producer.

        Raises:
            CrashError: The message is too large, or `partition` does not exist.
        """
        number = next(self._numbers)
        message = _Unacked(topic, partition, key, value, headers or [], timestamp_ms, on_ack)
        self._unacked[number] = message
        self._hand_over(number, message)
        self._heal()

    def poll(self) -> None:
        """Serve acknowledgements that have arrived; never waits while all is well."""
        self._serve(self._client.poll, 0)
        self._heal()
        self._publish()

    def settle(self) -> None:
        """Return when everything that was sent is acknowledged, however long that takes."""
        started_s = self._outside.clock.monotonic_s()
        is_slow = False
        self.poll()
        while self._unacked:
            self._serve(self._client.flush, WAIT_SLICE_S)
            self._heal()
            self._outside.on_wait()
            waited_s = self._outside.clock.monotonic_s() - started_s
            if not is_slow and waited_s > SLOW_SETTLE_S and self._unacked:
                is_slow = True
                _log.warning(
                    "sink.waits_for_broker",
                    bootstrap=self._bootstrap,
                    unacknowledged=len(self._unacked),
                    error=self._last_error,
                )
        if is_slow:
            _log.info("sink.settled", seconds=round(self._outside.clock.monotonic_s() - started_s, 1))
        self._publish()

    def close(self) -> None:
        """Settle and leave the brokers."""
        self.settle()
        self._client.close()

    def _serve(self, wait: Callable[[float], object], timeout_s: float) -> None:
        """Let callbacks run. Both `poll` and `flush` raise a fatal error of the client."""
        try:
            wait(timeout_s)
        except KafkaException as failure:
            self._failed(failure.args[0], None)

    def _hand_over(self, number: int, message: _Unacked) -> None:
        """Give one message to librdkafka; on failure leave the reason in `_failure`."""
        arguments: dict[str, Any] = {"headers": message.headers, "on_delivery": self._on_delivery(number)}
        if message.partition is not None:
            arguments["partition"] = message.partition
        if message.timestamp_ms is not None:
            arguments["timestamp"] = message.timestamp_ms
        while self._failure is None:
            try:
                self._client.produce(message.topic, message.value, message.key, **arguments)
            except BufferError:
                self._serve(self._client.poll, WAIT_SLICE_S)
                self._outside.on_wait()
            except KafkaException as failure:
                self._failed(failure.args[0], message)
            else:
                return

    def _on_delivery(self, number: int) -> Callable[[KafkaError | None, Message], None]:
        return partial(self._delivered, self._generation, number)

    def _delivered(self, generation: int, number: int, error: KafkaError | None, delivered: Message) -> None:
        message = self._unacked.get(number)
        if message is None:
            return
        if error is not None:
            # A client that is being replaced reports what was purged; that is no news.
            if generation == self._generation:
                self._failed(error, message)
            return
        del self._unacked[number]
        self._replaced_in_vain = 0
        self._acked[message.topic] += 1
        if message.on_ack is not None:
            message.on_ack(int(delivered.partition() or 0), int(delivered.offset() or 0))

    def _failed(self, error: KafkaError, message: _Unacked | None) -> None:
        SINK_ERRORS.labels(ANY_TOPIC if message is None else message.topic, error.name()).inc()
        # Of the failures that follow from each other keep the first, but prefer one that says what was wrong.
        if self._failure is None or (message is not None and error.code() in HOPELESS):
            self._failure = _Failure(error, message)

    def _on_error(self, error: KafkaError) -> None:
        # That all brokers are down follows from an error that said why.
        if self._last_error is None or error.code() != ALL_BROKERS_DOWN:
            self._last_error = error.str()
        if error.fatal():
            self._failed(error, None)
        else:
            SINK_ERRORS.labels(ANY_TOPIC, error.name()).inc()

    def _heal(self) -> None:
        """Replace a client that has failed and send again what it owes, until that works."""
        while self._failure is not None:
            # The report of the message that failed comes after the fatal error that it caused; acknowledgements that
            # have arrived need no second copy.
            self._serve(self._client.poll, 0)
            error = self._failure.error
            _raise_if_hopeless(self._failure)
            _log.warning(
                "sink.producer_replaced", unacknowledged=len(self._unacked), reason=error.name(), error=error.str()
            )
            self._drop_client()
            self._pause()
            self._client = self._outside.make_producer(self._properties)
            self._failure = None
            self._resend()

    def _pause(self) -> None:
        """Nothing the first time; longer each time that no acknowledgement came in between."""
        if self._replaced_in_vain:
            pause_s = min(LONGEST_PAUSE_S, 0.05 * float(2 ** min(self._replaced_in_vain, 16)))
            self._outside.sleep(pause_s * (0.5 + self._outside.rng.random() / 2))
            self._outside.on_wait()
        self._replaced_in_vain += 1

    def _drop_client(self) -> None:
        self._generation += 1
        self._client.purge()
        self._serve(self._client.poll, 0)
        self._client.close()

    def _resend(self) -> None:
        if not self._unacked:
            return
        try:
            known = self._partition_counts()
        except RetryableError:
            # The brokers are away: librdkafka keeps the messages until they are back.
            known = None
        for number, message in list(self._unacked.items()):
            if known is not None and message.topic not in known:
                raise MissingTopicError(
                    f"topic {message.topic} was deleted while it was written; create it with `datastreamx apply`"
                )
            self._hand_over(number, message)
            if self._failure is not None:
                return

    def _partition_counts(self) -> dict[str, int]:
        clock = self._outside.clock
        give_up_s = clock.monotonic_s() + self._outside.answer_patience_s
        while True:
            try:
                topics = self._client.list_topics(timeout=METADATA_TIMEOUT_S).topics
            except KafkaException as failure:
                # Serves `error_cb`, which knows the cause; the failure itself is a time-out.
                self._serve(self._client.poll, 0)
                if clock.monotonic_s() >= give_up_s:
                    raise RetryableError(
                        f"Kafka at {self._bootstrap} did not answer within {self._outside.answer_patience_s:g} s: "
                        f"{self._last_error or failure.args[0].str()}. Are the brokers up? Check kafka.bootstrap, "
                        "kafka.security_protocol and the network; then start again"
                    ) from None
                self._outside.on_wait()
                self._outside.sleep(0.1 + self._outside.rng.random() / 10)
            else:
                return {name: len(topic.partitions) for name, topic in topics.items()}

    def _publish(self) -> None:
        for topic, count in self._acked.items():
            SINK_MESSAGES.labels(topic).inc(count)
        self._acked.clear()


def connected_producer(config: Config, topic: str, client_id: str, outside: Outside) -> SettlingProducer:
    """Producer for a topic that has the partitions of the events; raises what `require_topic` does."""
    producer = SettlingProducer(config.kafka, client_id, outside)
    producer.require_topic(topic, config.events.partitions)
    return producer


def _raise_if_hopeless(failure: _Failure) -> None:
    """Sending the same again can only fail the same way: stop and say why."""
    error, message = failure
    topic, size = ("?", 0) if message is None else (message.topic, len(message.value or b""))
    if error.code() in TOO_LARGE:
        raise CrashError(
            f"a message of {size:,} bytes for topic {topic} is refused as too large ({error.str()}); raise "
            "max.message.bytes of the topic and message.max.bytes of the brokers"
        )
    if error.code() == UNKNOWN_PARTITION:
        partition = None if message is None else message.partition
        raise CrashError(
            f"topic {topic} has no partition {partition} ({error.str()}): it needs events.partitions partitions; "
            "create it with `datastreamx apply`"
        )
