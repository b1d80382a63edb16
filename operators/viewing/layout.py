"""How the state of a key group lies in memory: arrays of records of 64-bit integers, none of them a Python object.

A slot is the index of a box's record, a code stands for the id of a channel or an ad. Both are names inside one
process: they depend on how the log was cut into chunks, so nothing that is emitted or compared may depend on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Int64s = np.ndarray[Any, np.dtype[np.int64]]

_UNSIGNED = {"rank", "key_high", "key_low", "seen"}


def _record(*fields: str) -> np.dtype[np.void]:
    return np.dtype([(field, np.uint64 if field in _UNSIGNED else np.int64) for field in fields])


BOX = _record(
    "rank",
    "key_high",
    "key_low",
    "is_present",
    "last_seq",
    "seen",
    "last_event_ms",
    "housekeeping_ms",
    "first_session",
    "channel",
    "channel_ms",
    "channel_seq",
    "last_channel",
    "last_channel_ms",
    "last_channel_seq",
    "last_ad",
    "last_ad_ms",
    "last_ad_seq",
    "power_ms",
    "power_seq",
    "is_standby",
    "tune_offset",
    "last_opportunity_ms",
)
"""One box. Stamps are (event time in ms, seq) of the report that set the value of the same name.

    rank: Hash of the box id; timers that are due at the same time fire in this order, whatever the secret of keys is.
    key_high, key_low: Pseudonym, 128 bits.
    is_present: False before the first event, and from forgetting until the box comes back.
    seen: Bit k is set when seq `last_seq - k` was seen.
    housekeeping_ms: When the box's one housekeeping timer is due; it may be early, never too late.
    first_session: Its open sessions are linked by rising start.
    tune_offset: Kafka offset of the current tune while it waits for its dwell, else `NO_OFFSET`; the id of the
        opportunity that it causes derives from it.
"""

SESSION = _record(
    "start_ms",
    "end_ms",
    "next",
    "slot",
    "events",
    "tunes",
    "ads_shown",
    "first_channel",
    "first_tune_ms",
    "first_tune_seq",
    "last_channel",
    "last_tune_ms",
    "last_tune_seq",
    "closed_by",
    "ordinal",
)
"""One session window. Once closed, `closed_by` is the offset of the record that did it and `ordinal` its place among
the sessions that this record closed."""

TIMER = _record("order", "rank", "slot")
"""`order` is due time * 2 + kind. Timers fire by (due time, kind, rank of the box)."""

OPPORTUNITY = _record(
    "place",
    "cause_offset",
    "opportunity_ms",
    "slot",
    "channel",
    "last_channel",
    "last_ad",
    "is_dwell",
    "is_expired",
)
"""An opportunity; `place` is that of the event that emitted it, in its chunk."""

RULES = (
    "allowed_lateness_ms",
    "session_gap_ms",
    "state_ttl_ms",
    "dwell_ms",
    "min_push_interval_ms",
    "decision_budget_ms",
)
"""Fields of `ViewingConfig` that the kernel needs."""

HEAD = _record(
    *RULES,
    "watermark_ms",
    "present",
    "roster",
    "timers",
    "dwells",
    "sessions",
    "free_session",
    # Of the call in hand.
    "offset",
    "ordinal",
    "first_closed",
    "last_closed",
    "closed",
    "opportunities",
    "late",
    "missing",
)
"""Rules, sizes and counters: the scalars of a key group.

    present: Boxes.
    roster: How often a box has come or was forgotten.
    timers: Size of the heap.
    dwells: How many of these are of a dwell.
    sessions: Records of the pool that were ever used; those given back are linked from `free_session`.
    offset, ordinal: The record in hand, and how many sessions it has closed.
"""


class In:
    """Rows of the matrix of a chunk's events, one column per event."""

    OFFSET = 0
    TIMESTAMP_MS = 1
    EVENT_TIME_MS = 2
    SEQ = 3
    TYPE = 4
    NAME = 5
    SLOT = 6
    SIZE = 7


class Out:
    """Rows of the matrix of emitted rows, one column per row of box_events; `PLACE` is the event's in its chunk."""

    PLACE = 0
    KEY_HIGH = 1
    KEY_LOW = 2
    SEQ_GAP = 3
    IS_LATE = 4
    CHANNEL = 5
    LAST_CHANNEL = 6
    LAST_AD = 7
    SIZE = 8
