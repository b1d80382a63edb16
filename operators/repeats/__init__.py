"""Drops facts that an earlier copy has already delivered, by one high-water mark per key group and table."""

from operators.repeats.step import drop_repeats

__all__ = ["drop_repeats"]
