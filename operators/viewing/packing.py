"""Boxes as few bytes: every number as a varint, relative to a neighbour that it is mostly close to.

Signed differences are zigzag-coded, as in Protocol Buffers, and one is added: zero stands for the usual value of a
field that nothing has set yet.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from operators.viewing.compiling import compiled
from operators.viewing.kernel import NEVER_MS, NO_NAME, NO_OFFSET, NONE
from operators.viewing.layout import BOX, HEAD, SESSION, Array

Records = Any
"""As in the kernel."""

_PLAN = np.dtype([(field, np.int64) for field in ("word", "usual", "scope", "base")])
_NOTHING, _OWN, _OUTER = range(3)


def _plan(record: np.dtype[Any], outer: np.dtype[Any], *fields: tuple[str, int, str]) -> Array:
    """Which fields are packed, in which order: (name, usual value, neighbour in this record or `.name` in `outer`)."""
    names, outer_names = record.names or (), outer.names or ()
    rows = []
    for name, usual, base in fields:
        if not base:
            rows.append((names.index(name), usual, _NOTHING, 0))
        elif base.startswith("."):
            rows.append((names.index(name), usual, _OUTER, outer_names.index(base[1:])))
        else:
            rows.append((names.index(name), usual, _OWN, names.index(base)))
    return np.array(rows, _PLAN)


_BOX_PLAN = _plan(
    BOX,
    HEAD,
    ("last_event_ms", NEVER_MS, ".watermark_ms"),
    ("last_seq", 0, ""),
    ("seen", 1, ""),
    ("housekeeping_ms", NEVER_MS, "last_event_ms"),
    ("channel", NO_NAME, ""),
    ("channel_ms", NEVER_MS, "last_event_ms"),
    ("channel_seq", 0, "last_seq"),
    ("last_channel", NO_NAME, ""),
    ("last_channel_ms", NEVER_MS, "channel_ms"),
    ("last_channel_seq", 0, "channel_seq"),
    ("last_ad", NO_NAME, ""),
    ("last_ad_ms", NEVER_MS, "last_event_ms"),
    ("last_ad_seq", 0, "last_seq"),
    ("power_ms", NEVER_MS, "last_event_ms"),
    ("power_seq", 0, "last_seq"),
    ("is_standby", 0, ""),
    ("tune_offset", NO_OFFSET, ""),
    ("last_opportunity_ms", NEVER_MS, "last_event_ms"),
)
"""All but rank and key, which are computed anew, and what links the box to its sessions."""

_SESSION_PLAN = _plan(
    SESSION,
    BOX,
    ("end_ms", NEVER_MS, ".last_event_ms"),
    ("start_ms", NEVER_MS, "end_ms"),
    ("events", 0, ""),
    ("tunes", 0, ""),
    ("ads_shown", 0, ""),
    ("last_channel", NO_NAME, ""),
    ("last_tune_ms", NEVER_MS, ".channel_ms"),
    ("last_tune_seq", 0, ".channel_seq"),
    ("first_channel", NO_NAME, ""),
    ("first_tune_ms", NEVER_MS, "last_tune_ms"),
    ("first_tune_seq", 0, "last_tune_seq"),
)

PLANS = (_BOX_PLAN, _SESSION_PLAN)

_VARINT_BYTES_MAX = 10
BOX_BYTES_MAX = _VARINT_BYTES_MAX * (len(_BOX_PLAN) + 1)
"""Of one box and the number of its sessions."""
SESSION_BYTES_MAX = _VARINT_BYTES_MAX * len(_SESSION_PLAN)

_SEVEN = np.uint64(7)
_LOW = np.uint64(0x7F)
_MORE = np.uint64(0x80)
_ONE = np.uint64(1)
_BITS = 64


@compiled
def _put(out: Records, at: int, value: Any) -> int:
    """Write a number without sign; returns where the next one goes."""
    rest = np.uint64(value)
    while rest > _LOW:
        out[at] = (rest & _LOW) | _MORE
        rest >>= _SEVEN
        at += 1
    out[at] = rest
    return at + 1


@compiled
def _get(packed: Records, at: int) -> Any:
    """Number at `at`, and where the next one is."""
    value = np.uint64(0)
    shift = 0
    while shift < _BITS:
        octet = np.uint64(packed[at])
        at += 1
        value |= (octet & _LOW) << np.uint64(shift)
        if octet < _MORE:
            break
        shift += 7
    return value, at


@compiled
def _base(words: Records, outer: Records, step: Records) -> int:
    if step.scope == _OWN:
        return words[step.base]
    if step.scope == _OUTER:
        return outer[step.base]
    return 0


@compiled
def _put_words(out: Records, at: int, plan: Records, words: Records, outer: Records) -> int:
    for row in range(plan.size):
        step = plan[row]
        value = words[step.word]
        if value == step.usual:
            out[at] = 0
            at += 1
        else:
            delta = value - _base(words, outer, step)
            at = _put(out, at, np.uint64((delta << 1) ^ (delta >> 63)) + _ONE)
    return at


@compiled
def _get_words(packed: Records, at: int, plan: Records, words: Records, outer: Records) -> int:
    for row in range(plan.size):
        step = plan[row]
        code, at = _get(packed, at)
        if code == 0:
            words[step.word] = step.usual
        else:
            code -= _ONE
            delta = np.int64(code >> _ONE) ^ -np.int64(code & _ONE)
            words[step.word] = delta + _base(words, outer, step)
    return at


@compiled
def pack(
    boxes: Records,
    sessions: Records,
    words: Any,
    plans: Any,
    out: Records,
) -> Any:
    """Write all boxes that are present, by slot, each followed by its open sessions.

    Args:
        boxes: `BOX` by slot.
        sessions: `SESSION`.
        words: Matrices of the integers of one `HEAD`, the boxes and the sessions.
        plans: `PLANS`.
        out: Room.

    Returns:
        Bytes and open sessions written.
    """
    head_words, box_words, session_words = words
    box_plan, session_plan = plans
    at = total = 0
    for slot in range(boxes.size):
        box = boxes[slot]
        if not box.is_present:
            continue
        at = _put_words(out, at, box_plan, box_words[slot], head_words[0])
        count = 0
        session = box.first_session
        while session != NONE:
            count += 1
            session = sessions[session].next
        at = _put(out, at, count)
        total += count
        session = box.first_session
        while session != NONE:
            at = _put_words(out, at, session_plan, session_words[session], box_words[slot])
            session = sessions[session].next
    return at, total


@compiled
def unpack(
    heads: Records,
    boxes: Records,
    sessions: Records,
    words: Any,
    plans: Any,
    packed: Records,
    count: int,
    end: int,
) -> bool:
    """Invert `pack` into an empty state.

    Args:
        heads: One `HEAD`, its watermark set.
        boxes: Room for `count` boxes.
        sessions: Room for as many as `pack` wrote.
        words: As for `pack`.
        plans: `PLANS`.
        packed: What `pack` wrote, and behind it zeros enough for a box and a session, so that no read ends outside.
        count: Boxes in there.
        end: Bytes in there.

    Returns:
        Whether all of it made sense.
    """
    head = heads[0]
    head_words, box_words, session_words = words
    box_plan, session_plan = plans
    at = 0
    for slot in range(count):
        box = boxes[slot]
        box.is_present = True
        box.first_session = NONE
        at = _get_words(packed, at, box_plan, box_words[slot], head_words[0])
        open_sessions, at = _get(packed, at)
        for place in range(open_sessions):
            if at > end or head.sessions == sessions.size:
                return False
            session = head.sessions
            head.sessions += 1
            at = _get_words(packed, at, session_plan, session_words[session], box_words[slot])
            sessions[session].slot = slot
            sessions[session].next = NONE
            if place == 0:
                box.first_session = session
            else:
                sessions[session - 1].next = session
        if at > end:
            return False
    head.present = count
    return at == end
