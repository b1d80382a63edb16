"""Reads the decision log: the first record of an auction counts, and becomes rows of ad_decisions and bids."""

from operators.decisions.step import DecisionBatch, read_decisions

__all__ = ["DecisionBatch", "read_decisions"]
