"""Sink of facts: Arrow record batches on their way to the warehouse (decision 0002)."""

from sinks.facts.sink import FactsSink

__all__ = ["FactsSink"]
