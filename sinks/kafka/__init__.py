"""Kafka producer shared by the sinks that write topics."""

from sinks.kafka.producer import SettlingProducer

__all__ = ["SettlingProducer"]
