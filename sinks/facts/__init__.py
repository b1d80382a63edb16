"""Sink of facts: Arrow record batches on their way to the warehouse (decision D6)."""

from sinks.facts.sink import FactsSink

__all__ = ["FactsSink"]
