"""Rows as the kernel's integers, and Arrow record batches from them.

Twenty columns cost 40 µs to build, for one row as for a hundred. A live chunk has one or two, so what it emits stays as
it is until somebody wants columns, of many chunks together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, groupby
from typing import TypeVar

import numpy as np
import pyarrow as pa

from datastreamx.model.events import BoxEvent
from datastreamx.model.identity import session_id
from datastreamx.model.keygroup import KeyGroup
from datastreamx.tables import BOX_EVENTS, VIEWING_SESSIONS
from operators.viewing.kernel import AD_BREAK, AD_SHOWN, POWER_ON, STANDBY
from operators.viewing.layout import Array, In, Int64s, Out
from operators.viewing.names import NameTable

_Rows = TypeVar("_Rows", "EventRows", "SessionRows")

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


def _keys(highs: Int64s, lows: Int64s) -> pa.Array:
    """Hex digits of pseudonyms."""
    starts = np.arange(0, KEY_DIGITS * len(highs) + 1, KEY_DIGITS, dtype=np.int32)
    buffers = [None, pa.py_buffer(starts), pa.py_buffer(key_digits(highs, lows).encode())]
    return pa.Array.from_buffers(_STRING, len(highs), buffers, 0)


def key_digits(highs: Int64s, lows: Int64s) -> str:
    """Hex digits of pseudonyms, end to end."""
    keys = np.empty((len(highs), 2), ">i8")
    keys[:, 0], keys[:, 1] = highs, lows
    return keys.tobytes().hex()


def _sparse(size: int, held: Sequence[int], events: Sequence[BoxEvent], field: str, kind: pa.DataType) -> pa.Array:
    """Column of a field that only the events in some rows have."""
    if not held:
        return _constant(None, kind, size)
    column = [None] * size
    for row in held:
        column[row] = getattr(events[row], field)
    return pa.array(column, kind)


@dataclass(frozen=True, slots=True)
class EventRows:
    """Rows of box_events.

    Attributes:
        key_group: Whose they are.
        log: Events as the kernel took them, see `In`.
        events: The same events.
        rows: What the kernel made of them, see `Out`.
        names: What the codes in `rows` stand for.
    """

    key_group: KeyGroup
    log: Int64s
    events: Sequence[BoxEvent]
    rows: Int64s
    names: NameTable

    @property
    def num_rows(self) -> int:
        """How many."""
        return int(self.rows.shape[1])

    def columns(self, later: Sequence[EventRows] = ()) -> pa.RecordBatch:
        """These rows and then later ones of the same key group."""
        if not later:
            return _event_columns(self, [self])
        pieces = [self, *later]
        log = np.concatenate([piece.log for piece in pieces], axis=1)
        rows = np.concatenate([piece.rows for piece in pieces], axis=1)
        events = [*chain.from_iterable(piece.events for piece in pieces)]
        return _event_columns(EventRows(self.key_group, log, events, rows, self.names), pieces)


def _event_columns(all_rows: EventRows, pieces: Sequence[EventRows]) -> pa.RecordBatch:
    """Columns of `all_rows`, which are those of the pieces, end to end."""
    size, log, events, rows = all_rows.num_rows, all_rows.log, all_rows.events, all_rows.rows
    types = log[In.TYPE]
    shown = np.flatnonzero(types == AD_SHOWN).tolist()
    breaks = np.flatnonzero(types == AD_BREAK).tolist()
    power = np.flatnonzero((types == POWER_ON) | (types == STANDBY)).tolist()
    columns = [
        _numbers(log[In.EVENT_TIME_MS] * 1000, _TIMESTAMP),
        _numbers(log[In.TIMESTAMP_MS] * 1000, _TIMESTAMP),
        _keys(rows[Out.KEY_HIGH], rows[Out.KEY_LOW]),
        pa.array([event.event_id for event in events], _STRING),
        _numbers(log[In.SEQ]),
        _numbers(rows[Out.SEQ_GAP]),
        _TYPES.take(pa.array(types)),
        pa.array(rows[Out.IS_LATE].astype(np.bool_)),
        _names(pieces, lambda piece: piece.rows[Out.CHANNEL]),
        _names(pieces, lambda piece: piece.rows[Out.LAST_CHANNEL]),
        _names(pieces, lambda piece: piece.rows[Out.LAST_AD]),
        _sparse(size, shown, events, "push_id", _STRING),
        _sparse(size, shown, events, "ad_id", _STRING),
        _sparse(size, shown, events, "shown_ms", _INT64),
        _sparse(size, breaks, events, "break_id", _STRING),
        _sparse(size, breaks, events, "starts_in_ms", _INT64),
        _sparse(size, breaks, events, "duration_ms", _INT64),
        _sparse(size, power, events, "state", _STRING),
        _constant(all_rows.key_group.partition, _INT64, size),
        _constant(all_rows.key_group.group, _INT64, size),
        _numbers(log[In.OFFSET]),
        _constant(0, _INT64, size),  # An event's row is the only one that it emits into box_events.
    ]
    return pa.RecordBatch.from_arrays(columns, schema=BOX_EVENTS.arrow_schema)


def _names(pieces: Sequence[_Rows], codes_of: Callable[[_Rows], Int64s]) -> pa.Array:
    """Column of strings; the pieces may be from before and after a sweep."""
    found = [
        table.column(np.concatenate([codes_of(piece) for piece in own]))
        for table, own in groupby(pieces, lambda piece: piece.names)
    ]
    return found[0] if len(found) == 1 else pa.concat_arrays(found)


@dataclass(frozen=True, slots=True)
class SessionRows:
    """Rows of viewing_sessions.

    Attributes:
        key_group: Whose they are.
        closed: Records of closed sessions, in order.
        keys: Pseudonym of each one's box.
        names: What the codes in `closed` stand for.
    """

    key_group: KeyGroup
    closed: Array
    keys: Sequence[str]
    names: NameTable

    @property
    def num_rows(self) -> int:
        """How many."""
        return len(self.closed)

    def columns(self, later: Sequence[SessionRows] = ()) -> pa.RecordBatch:
        """These rows and then later ones of the same key group."""
        pieces = [self, *later]
        closed = np.concatenate([piece.closed for piece in pieces])
        keys = [*chain.from_iterable(piece.keys for piece in pieces)]
        size = len(closed)
        starts_ms, ends_ms = closed["start_ms"], closed["end_ms"]
        ids = [session_id(key, start_ms) for key, start_ms in zip(keys, starts_ms.tolist(), strict=True)]
        columns = [
            _numbers(starts_ms * 1000, _TIMESTAMP),
            _numbers(ends_ms * 1000, _TIMESTAMP),
            pa.array(keys, _STRING),
            pa.array(ids, _STRING),
            _numbers(ends_ms - starts_ms),
            _numbers(closed["events"]),
            _numbers(closed["tunes"]),
            _numbers(closed["ads_shown"]),
            _names(pieces, lambda piece: piece.closed["first_channel"]),
            _names(pieces, lambda piece: piece.closed["last_channel"]),
            _constant(self.key_group.partition, _INT64, size),
            _constant(self.key_group.group, _INT64, size),
            _numbers(closed["closed_by"]),
            _numbers(closed["ordinal"]),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=VIEWING_SESSIONS.arrow_schema)
