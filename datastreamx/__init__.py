"""Kernel of DatastreamX: domain model, wire formats, configuration, errors, clock and metrics."""
