"""Gathers everything that is to land in BigQuery, keyed by table, with ticks for every table."""

from operators.land.step import land

__all__ = ["land"]
