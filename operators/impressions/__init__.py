"""Joins displayed ads to the decisions that pushed them: an impression was shown, and we know why."""

from operators.impressions.step import ImpressionBatch, join_impressions

__all__ = ["ImpressionBatch", "join_impressions"]
