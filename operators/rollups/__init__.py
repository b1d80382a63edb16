"""Increments per minute, channel and aggregator: what dashboards read instead of the detail."""

from operators.rollups.step import roll_up

__all__ = ["roll_up"]
