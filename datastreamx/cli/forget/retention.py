"""How long the topics really keep records, asked from the brokers."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exported without saying so
    AdminClient,
    ConfigResource,
    ResourceType,
)

from datastreamx.cli.forget.remains import SEGMENT_MS, Retention
from datastreamx.config import Config
from datastreamx.kafka import client_properties

ANSWER_TIMEOUT_S = 5.0

_HOUR_MS = 3_600_000


def ask_retention(config: Config) -> dict[str, Retention]:
    """By topic; what the brokers do not tell is as configured, and says so. Raises nothing but for a bug."""
    topics = config.topics
    names = (topics.events, topics.decisions, topics.facts, topics.dead_letters)
    configured = Retention(topics.retention_hours * _HOUR_MS, is_asked=False)
    # librdkafka would write its own connection errors to stderr, besides ours.
    admin = AdminClient({**client_properties(config.kafka, "datastreamx-forget"), "log_level": 0})
    resources = {name: ConfigResource(ResourceType.TOPIC, name) for name in names}
    answers = admin.describe_configs([*resources.values()], request_timeout=ANSWER_TIMEOUT_S)
    return {name: _retention(answers[resource]) or configured for name, resource in resources.items()}


def _retention(answer: Future[dict[str, Any]]) -> Retention | None:
    try:
        entries = answer.result(2 * ANSWER_TIMEOUT_S)
        retention_ms, segment_ms = (
            int(entries[key].value) if key in entries else None for key in ("retention.ms", "segment.ms")
        )
    except (KafkaException, TimeoutError, ValueError):
        return None
    if retention_ms is None:
        return None
    return Retention(retention_ms, SEGMENT_MS if segment_ms is None else segment_ms)
