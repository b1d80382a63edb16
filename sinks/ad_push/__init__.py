"""Sink of decisions: a record with a winner is the ad push (decision D5)."""

from sinks.ad_push.sink import AdPushSink

__all__ = ["AdPushSink"]
