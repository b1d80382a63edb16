"""Sink of records that can never be processed."""

from sinks.dead_letter.sink import DeadLetterSink
from sinks.dead_letter.writer import DeadLetterWriter

__all__ = ["DeadLetterSink", "DeadLetterWriter"]
