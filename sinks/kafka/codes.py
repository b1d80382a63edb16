"""Error codes that the producer tells apart."""
# ruff: noqa: SLF001  codes of the client itself, not the broker, begin with an underscore and are public all the same

from __future__ import annotations

from confluent_kafka import KafkaError

ALL_BROKERS_DOWN: int = KafkaError._ALL_BROKERS_DOWN
TOO_LARGE: frozenset[int] = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
UNKNOWN_PARTITION: int = KafkaError._UNKNOWN_PARTITION
HOPELESS: frozenset[int] = TOO_LARGE | {UNKNOWN_PARTITION}
"""Sending the same message again can only fail the same way."""
