"""Sink of decisions: a record with a winner is the ad push (decision 0004)."""

from sinks.ad_push.sink import AdPushSink

__all__ = ["AdPushSink"]
