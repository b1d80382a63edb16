"""Tells apart what the warehouse flow reads: facts, decisions and ticks."""

from operators.split.step import LogStreams, partition_key, split_log

__all__ = ["LogStreams", "partition_key", "split_log"]
