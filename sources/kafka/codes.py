"""Error codes that the sources tell apart."""
# ruff: noqa: SLF001  codes of the client itself, not the broker, begin with an underscore and are public all the same

from __future__ import annotations

from confluent_kafka import KafkaError

ALL_BROKERS_DOWN: int = KafkaError._ALL_BROKERS_DOWN
TIMED_OUT: int = KafkaError._TIMED_OUT
END_OF_PARTITION: int = KafkaError._PARTITION_EOF
OUT_OF_RANGE: frozenset[int] = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
MISSING_TOPIC: frozenset[int] = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)
