"""Traffic of many boxes, the same for every contestant."""

from __future__ import annotations

from simulator.traffic import (
    ADS,
    CHANNELS,
    DESCRIPTION,
    INTERVAL_MS,
    POLL_RECORDS,
    START_MS,
    box_id,
    chunks,
    events,
)

__all__ = ["ADS", "CHANNELS", "DESCRIPTION", "INTERVAL_MS", "POLL_RECORDS", "START_MS", "box_id", "chunks", "events"]
