"""Kafka sources: one consumer per worker, explicit positions, no silent loss (decision 0005)."""

from sources.kafka.decision_log import DecisionLog
from sources.kafka.events import EventSource
from sources.kafka.warehouse import WarehouseSource

__all__ = ["DecisionLog", "EventSource", "WarehouseSource"]
