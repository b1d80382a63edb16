"""Sinks: where a flow hands its results over, one folder each."""
