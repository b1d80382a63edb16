"""Tells apart what the warehouse flow reads: facts, decisions and ticks."""

from operators.split.step import LogStreams, split_log

__all__ = ["LogStreams", "split_log"]
