"""Topics: what has to exist, and how to make it so."""

from __future__ import annotations

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # re-exported without saying so

from datastreamx.config import Config
from datastreamx.errors import CrashError, RetryableError
from datastreamx.kafka import MAX_MESSAGE_BYTES, client_properties

TIMEOUT_S = 10.0

_HOUR_MS = 3_600_000


class TopicChange(msgspec.Struct, frozen=True):
    """A topic that does not exist yet."""

    name: str
    partitions: int
    replication_factor: int
    settings: dict[str, str]

    def __str__(self) -> str:
        return f"create topic {self.name} with {self.partitions} partitions, {self.replication_factor} replicas"


def wanted_topics(config: Config) -> list[TopicChange]:
    """All topics. Facts and decisions have the partitions of the events, because state and joins live by partition."""
    settings = {
        "retention.ms": str(config.topics.retention_hours * _HOUR_MS),
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
    }
    counts = {
        config.topics.events: config.events.partitions,
        config.topics.decisions: config.events.partitions,
        config.topics.facts: config.events.partitions,
        config.topics.dead_letters: 1,
    }
    factor = config.topics.replication_factor
    return [TopicChange(name, partitions, factor, settings) for name, partitions in counts.items()]


def plan_topics(config: Config) -> list[TopicChange]:
    """Topics that are missing.

    Raises:
        RetryableError: The brokers do not answer.
        CrashError: A topic exists with another number of partitions.
    """
    existing = _partition_counts(config)
    wrong = [
        f"topic {topic.name} has {existing[topic.name]} partitions, {topic.partitions} are configured"
        for topic in wanted_topics(config)
        if existing.get(topic.name, topic.partitions) != topic.partitions
    ]
    if wrong:
        remedy = "set events.partitions to what exists, or use other topic names; partition counts are fixed for ever"
        raise CrashError(f"{'; '.join(wrong)}: {remedy}")
    return [topic for topic in wanted_topics(config) if topic.name not in existing]


def apply_topics(config: Config) -> list[TopicChange]:
    """Create what is missing; returns it. Doing it again changes nothing.

    Raises:
        RetryableError: The brokers do not answer.
        CrashError: They refuse.
    """
    changes = plan_topics(config)
    if changes:
        new = [NewTopic(c.name, c.partitions, c.replication_factor, config=c.settings) for c in changes]
        # The futures die with the client: it has to stay referenced until they are done.
        admin = _admin(config)
        for name, future in admin.create_topics(new, operation_timeout=TIMEOUT_S).items():
            try:
                future.result()
            except KafkaException as error:
                raise CrashError(f"topic {name} cannot be created: {error.args[0].str()}") from error
    return changes


def _partition_counts(config: Config) -> dict[str, int]:
    try:
        metadata = _admin(config).list_topics(timeout=TIMEOUT_S)
    except KafkaException as error:
        raise RetryableError(
            f"no broker answers at {config.kafka.bootstrap} ({error.args[0].str()}): is it up, and is kafka.bootstrap "
            "right? `datastreamx doctor` tells more"
        ) from error
    return {name: len(topic.partitions) for name, topic in metadata.topics.items()}


def _admin(config: Config) -> AdminClient:
    # librdkafka would write its own connection errors to stderr, besides ours.
    return AdminClient({**client_properties(config.kafka, "datastreamx-admin"), "log_level": 0})
