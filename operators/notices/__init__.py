"""Tells aggregators what became of their bids: won, lost, displayed. At most once each."""

from operators.notices.step import NoticePorts, send_notices

__all__ = ["NoticePorts", "send_notices"]
