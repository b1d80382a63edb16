"""Arrow record batches from the kernel's integers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa

from datastreamx.model.events import BoxEvent
from datastreamx.model.identity import session_id
from datastreamx.model.keygroup import KeyGroup
from datastreamx.tables import BOX_EVENTS, VIEWING_SESSIONS
from operators.viewing.kernel import AD_BREAK, AD_SHOWN, POWER_ON, STANDBY
from operators.viewing.layout import Array, In, Int64s, Out
from operators.viewing.names import Names

KEY_DIGITS = 32
_INT64, _STRING = pa.int64(), pa.string()
_TIMESTAMP = BOX_EVENTS.arrow_schema.field("event_time").type
_TYPES = pa.array(["tune", "ad_shown", "ad_break", "power", "power", "heartbeat"], _STRING)
"""By the kernel's type; the two of `power` are told apart in another column."""


def _numbers(values: Int64s, kind: pa.DataType = _INT64) -> pa.Array:
    """The integers themselves, not a copy."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))], 0)


@cache
def _long_constant(value: object, kind: pa.DataType, size: int) -> pa.Array:
    return pa.array([value] * size, kind)


def _constant(value: object, kind: pa.DataType, size: int) -> pa.Array:
    """The same in every row: a slice of one long column, of which there is one per power of two."""
    return _long_constant(value, kind, 1 << size.bit_length()).slice(0, size)


def _keys(digits: str) -> pa.Array:
    starts = np.arange(0, len(digits) + 1, KEY_DIGITS, dtype=np.int32)
    buffers = [None, pa.py_buffer(starts), pa.py_buffer(digits.encode())]
    return pa.Array.from_buffers(_STRING, len(starts) - 1, buffers, 0)


def _sparse(size: int, held: Sequence[int], events: Sequence[BoxEvent], field: str, kind: pa.DataType) -> pa.Array:
    """Column of a field that only the events in some rows have."""
    if not held:
        return _constant(None, kind, size)
    column = [None] * size
    for row in held:
        column[row] = getattr(events[row], field)
    return pa.array(column, kind)


def event_rows(  # noqa: PLR0913, PLR0917  the parts of one table
    key_group: KeyGroup, log: Int64s, events: Sequence[BoxEvent], rows: Int64s, keys: str, names: Names
) -> pa.RecordBatch:
    """Rows of box_events.

    Args:
        key_group: Whose they are.
        log: The chunk's events as the kernel took them.
        events: The same events.
        rows: What the kernel made of them.
        keys: Digits of the box keys of `rows`, end to end.
        names: What the codes stand for.
    """
    size = rows.shape[1]
    if size != len(events):
        log = log[:, rows[Out.PLACE]]
        events = [events[place] for place in rows[Out.PLACE].tolist()]
    types = log[In.TYPE]
    shown = np.flatnonzero(types == AD_SHOWN).tolist()
    breaks = np.flatnonzero(types == AD_BREAK).tolist()
    power = np.flatnonzero((types == POWER_ON) | (types == STANDBY)).tolist()
    columns = [
        _numbers(log[In.EVENT_TIME_MS] * 1000, _TIMESTAMP),
        _numbers(log[In.TIMESTAMP_MS] * 1000, _TIMESTAMP),
        _keys(keys),
        pa.array([event.event_id for event in events], _STRING),
        _numbers(log[In.SEQ]),
        _numbers(rows[Out.SEQ_GAP]),
        _TYPES.take(pa.array(types)),
        pa.array(rows[Out.IS_LATE].astype(np.bool_)),
        names.column(rows[Out.CHANNEL]),
        names.column(rows[Out.LAST_CHANNEL]),
        names.column(rows[Out.LAST_AD]),
        _sparse(size, shown, events, "push_id", _STRING),
        _sparse(size, shown, events, "ad_id", _STRING),
        _sparse(size, shown, events, "shown_ms", _INT64),
        _sparse(size, breaks, events, "break_id", _STRING),
        _sparse(size, breaks, events, "starts_in_ms", _INT64),
        _sparse(size, breaks, events, "duration_ms", _INT64),
        _sparse(size, power, events, "state", _STRING),
        _constant(key_group.partition, _INT64, size),
        _constant(key_group.group, _INT64, size),
        _numbers(log[In.OFFSET]),
        _constant(0, _INT64, size),  # An event's row is the only one that it emits into box_events.
    ]
    return pa.RecordBatch.from_arrays(columns, schema=BOX_EVENTS.arrow_schema)


def session_rows(key_group: KeyGroup, closed: Array, keys: Sequence[str], names: Names) -> pa.RecordBatch:
    """Rows of viewing_sessions.

    Args:
        key_group: Whose they are.
        closed: Records of closed sessions, in order.
        keys: Box key of each.
        names: What the codes stand for.
    """
    size = len(closed)
    starts_ms, ends_ms = closed["start_ms"], closed["end_ms"]
    columns = [
        _numbers(starts_ms * 1000, _TIMESTAMP),
        _numbers(ends_ms * 1000, _TIMESTAMP),
        pa.array(keys, _STRING),
        pa.array([session_id(key, start_ms) for key, start_ms in zip(keys, starts_ms.tolist(), strict=True)], _STRING),
        _numbers(ends_ms - starts_ms),
        _numbers(closed["events"]),
        _numbers(closed["tunes"]),
        _numbers(closed["ads_shown"]),
        names.column(closed["first_channel"]),
        names.column(closed["last_channel"]),
        _constant(key_group.partition, _INT64, size),
        _constant(key_group.group, _INT64, size),
        _numbers(closed["closed_by"]),
        _numbers(closed["ordinal"]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=VIEWING_SESSIONS.arrow_schema)
