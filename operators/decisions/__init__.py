"""Reads the decision log: the first record of an auction counts, and becomes rows of three tables."""

from operators.decisions.step import DecisionBatch, read_decisions

__all__ = ["DecisionBatch", "read_decisions"]
