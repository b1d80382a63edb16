"""The state machine of viewing, compiled: events in, rows out, nothing but integers.

No clock, no randomness, no dependence on how the log was cut into chunks. For each event in turn: the watermark moves,
timers that are due fire in order of (due time, kind, rank of the box), then the event applies. Everything is
commutative within the allowed lateness: two reports are compared by (event time, seq), so the order of arrival does not
matter. The channel is the latest tune, the last channel the latest tune to any other channel, the last ad the latest
display.

The callers guarantee room, see `KeyGroupState`. Nothing here allocates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from operators.viewing.compiling import compiled
from operators.viewing.layout import In, Out

Records = Any
"""Array of records, or one of them by reference. Numba derives the types; mypy cannot follow it into records."""

NEVER_MS = -1
NO_OFFSET = -1
NO_NAME = 0
"""Code of "no string"; codes of channels and ads begin at 1."""
NONE = -1
"""Index of no session."""

SEQ_WINDOW = 64
"""How many sequence numbers up to the highest one are remembered, to tell a duplicate from a late arrival."""

TUNE, AD_SHOWN, AD_BREAK, POWER_ON, STANDBY, HEARTBEAT = range(6)
"""Types of events."""

HOUSEKEEPING, DWELL = range(2)
"""Kinds of timers; `_push_timer` counts by them."""

_DUPLICATE = -1
_ONE = np.uint64(1)

# Numba takes integers of the module as constants, attributes of a class not.
_OFFSET, _TIME, _SEQ, _TYPE, _NAME, _SLOT = In.OFFSET, In.EVENT_TIME_MS, In.SEQ, In.TYPE, In.NAME, In.SLOT
_R_PLACE, _R_GAP, _R_LATE = Out.PLACE, Out.SEQ_GAP, Out.IS_LATE
_R_CHANNEL, _R_LAST_CHANNEL, _R_LAST_AD = Out.CHANNEL, Out.LAST_CHANNEL, Out.LAST_AD
_R_KEY_HIGH, _R_KEY_LOW = Out.KEY_HIGH, Out.KEY_LOW

MANY = 2**63 - 1
"""As far as missing numbers are counted."""


# --- timers: a binary heap -------------------------------------------------------------------------------------------


@compiled
def _fires_before(order: int, rank: int, other: Records) -> bool:
    return order < other.order or (order == other.order and rank < other.rank)


@compiled
def _push_timer(head: Records, timers: Records, box: Records, slot: int, due_ms: int, kind: int) -> None:
    head.dwells += kind
    order = due_ms * 2 + kind
    at = head.timers
    head.timers += 1
    while at > 0:
        parent = (at - 1) >> 1
        if not _fires_before(order, box.rank, timers[parent]):
            break
        timers[at] = timers[parent]
        at = parent
    timers[at].order = order
    timers[at].rank = box.rank
    timers[at].slot = slot


@compiled
def _pop_timer(head: Records, timers: Records) -> None:
    head.timers -= 1
    size = head.timers
    last = timers[size]
    at = 0
    while True:
        child = 2 * at + 1
        if child + 1 < size and _fires_before(timers[child + 1].order, timers[child + 1].rank, timers[child]):
            child += 1
        if child >= size or not _fires_before(timers[child].order, timers[child].rank, last):
            break
        timers[at] = timers[child]
        at = child
    timers[at] = last


@compiled
def _arm_housekeeping(head: Records, timers: Records, sessions: Records, box: Records, slot: int) -> None:
    """Make sure that the box's timer is due no later than its next closing or forgetting.

    Most events only move that moment further away; then the timer stays where it is and, when it fires for nothing, is
    set anew. One timer per box instead of one per event.
    """
    at = box.first_session
    if at == NONE:
        due_ms = box.last_event_ms + head.state_ttl_ms
    else:
        # Of sessions that do not touch, the one that starts first ends first.
        due_ms = sessions[at].end_ms + head.session_gap_ms + head.allowed_lateness_ms
    if box.housekeeping_ms == NEVER_MS or due_ms < box.housekeeping_ms:
        box.housekeeping_ms = due_ms
        _push_timer(head, timers, box, slot, due_ms, HOUSEKEEPING)


@compiled
def arm_all(heads: Records, boxes: Records, timers: Records) -> None:
    """Set the timers of restored boxes; they follow from the boxes."""
    head = heads[0]
    for slot in range(boxes.size):
        box = boxes[slot]
        if box.is_present:
            _push_timer(head, timers, box, slot, box.housekeeping_ms, HOUSEKEEPING)
            if box.tune_offset != NO_OFFSET:
                _push_timer(head, timers, box, slot, box.channel_ms + head.dwell_ms, DWELL)


# --- sessions --------------------------------------------------------------------------------------------------------


@compiled
def _is_after(time_ms: int, seq: int, other_ms: int, other_seq: int) -> bool:
    """Whether one report is newer than another; any is newer than none, whose time is `NEVER_MS`."""
    return time_ms > other_ms or (time_ms == other_ms and seq > other_seq)


@compiled
def _note_tune(session: Records, time_ms: int, seq: int, channel: int) -> None:
    """Keep the first and the last tune."""
    if session.first_channel == NO_NAME or _is_after(session.first_tune_ms, session.first_tune_seq, time_ms, seq):
        session.first_tune_ms = time_ms
        session.first_tune_seq = seq
        session.first_channel = channel
    if _is_after(time_ms, seq, session.last_tune_ms, session.last_tune_seq):
        session.last_tune_ms = time_ms
        session.last_tune_seq = seq
        session.last_channel = channel


@compiled
def _open_session(head: Records, sessions: Records, slot: int, time_ms: int) -> int:
    at = head.free_session
    if at == NONE:
        at = head.sessions
        head.sessions += 1
    else:
        head.free_session = sessions[at].next
    session = sessions[at]
    session.start_ms = session.end_ms = time_ms
    session.slot = slot
    session.events = session.tunes = session.ads_shown = 0
    session.first_channel = session.last_channel = NO_NAME
    session.first_tune_ms = session.last_tune_ms = NEVER_MS
    session.first_tune_seq = session.last_tune_seq = 0
    return at


@compiled
def _free_session(head: Records, sessions: Records, at: int) -> None:
    sessions[at].next = head.free_session
    head.free_session = at


@compiled
def _link(box: Records, sessions: Records, before: int, after: int) -> None:
    """Let `after` follow `before`, or be the box's first session."""
    if before == NONE:
        box.first_session = after
    else:
        sessions[before].next = after


@compiled
def _absorb(session: Records, other: Records) -> None:
    """Merge a neighbour that an event in between has joined to this session."""
    session.end_ms = other.end_ms
    session.events += other.events
    session.tunes += other.tunes
    session.ads_shown += other.ads_shown
    if other.first_channel != NO_NAME:
        _note_tune(session, other.first_tune_ms, other.first_tune_seq, other.first_channel)
        _note_tune(session, other.last_tune_ms, other.last_tune_seq, other.last_channel)


@compiled
def _session_at(head: Records, sessions: Records, box: Records, slot: int, time_ms: int) -> Any:
    """Session that an event belongs to: extended, newly opened, or merged from two that it joins."""
    gap_ms = head.session_gap_ms
    before, at = NONE, box.first_session
    while at != NONE and sessions[at].end_ms + gap_ms < time_ms:
        before, at = at, sessions[at].next
    if at == NONE or time_ms < sessions[at].start_ms - gap_ms:
        opened = _open_session(head, sessions, slot, time_ms)
        sessions[opened].next = at
        _link(box, sessions, before, opened)
        return sessions[opened]
    session = sessions[at]
    other = session.next
    while other != NONE and sessions[other].start_ms - gap_ms <= time_ms:
        _absorb(session, sessions[other])
        session.next = sessions[other].next
        _free_session(head, sessions, other)
        other = session.next
    session.start_ms = min(session.start_ms, time_ms)
    session.end_ms = max(session.end_ms, time_ms)
    return session


@compiled
def _close_sessions(head: Records, sessions: Records, box: Records) -> None:
    """Move the sessions that nothing can join any more to the list of closed ones."""
    closing_ms = head.session_gap_ms + head.allowed_lateness_ms
    at = box.first_session
    while at != NONE and sessions[at].end_ms + closing_ms <= head.watermark_ms:
        session = sessions[at]
        box.first_session = session.next
        session.closed_by = head.offset
        session.ordinal = head.ordinal
        head.ordinal += 1
        if head.closed == 0:
            head.first_closed = at
        else:
            sessions[head.last_closed].next = at
        head.last_closed = at
        head.closed += 1
        at = box.first_session


@compiled
def list_closed(heads: Records, sessions: Records, closed: Records) -> None:
    """Copy the closed sessions in order and give their records back to the pool."""
    head = heads[0]
    at = head.first_closed
    for row in range(head.closed):
        closed[row] = sessions[at]
        after = sessions[at].next
        _free_session(head, sessions, at)
        at = after


# --- boxes -----------------------------------------------------------------------------------------------------------


@compiled
def _appear(head: Records, box: Records, time_ms: int, seq: int) -> None:
    """First event of a box of which nothing is known."""
    head.present += 1
    head.roster += 1
    box.is_present = True
    box.last_seq = seq
    box.seen = _ONE
    box.last_event_ms = time_ms
    box.housekeeping_ms = NEVER_MS
    box.first_session = NONE
    box.channel = box.last_channel = box.last_ad = NO_NAME
    box.channel_ms = box.last_channel_ms = box.last_ad_ms = box.power_ms = NEVER_MS
    box.channel_seq = box.last_channel_seq = box.last_ad_seq = box.power_seq = 0
    box.is_standby = False
    box.tune_offset = NO_OFFSET
    box.last_opportunity_ms = NEVER_MS


@compiled
def _note_seq(box: Records, seq: int, time_ms: int) -> int:
    """Record a sequence number.

    Returns:
        How many numbers are missing right before it, or `_DUPLICATE`.

    A number seen before, or one below the window, is a duplicate unless its event is newer than everything the box ever
    sent: then the box has begun to count anew. A true duplicate cannot be newer than its original.
    """
    ahead = seq - box.last_seq
    if ahead > 0:
        box.seen = (box.seen << np.uint64(ahead)) | _ONE if ahead < SEQ_WINDOW else _ONE
        box.last_seq = seq
        return ahead - 1
    if -ahead < SEQ_WINDOW:
        bit = _ONE << np.uint64(-ahead)
        if not box.seen & bit:
            box.seen |= bit
            return 0
    if time_ms > box.last_event_ms:
        box.last_seq = seq
        box.seen = _ONE
        return 0
    return _DUPLICATE


@compiled
def _tune(head: Records, timers: Records, box: Records, slot: int, time_ms: int, seq: int, channel: int) -> None:
    """Take a tune into account; if it is now the current one, its dwell begins."""
    if _is_after(time_ms, seq, box.channel_ms, box.channel_seq):
        if box.channel not in (NO_NAME, channel):
            box.last_channel_ms = box.channel_ms
            box.last_channel_seq = box.channel_seq
            box.last_channel = box.channel
        box.channel_ms = time_ms
        box.channel_seq = seq
        box.channel = channel
        box.tune_offset = head.offset
        _push_timer(head, timers, box, slot, time_ms + head.dwell_ms, DWELL)
    elif channel != box.channel and _is_after(time_ms, seq, box.last_channel_ms, box.last_channel_seq):
        box.last_channel_ms = time_ms
        box.last_channel_seq = seq
        box.last_channel = channel


@compiled
def _offer(head: Records, box: Records, slot: int, place: int, time_ms: int, found: Records) -> int:
    """Note an opportunity, unless the box is in standby or had one too recently.

    Returns:
        Its index in `found`, for the caller to tell the cause and the channels; or `NONE`.
    """
    if box.is_standby:
        return NONE
    if box.last_opportunity_ms != NEVER_MS and time_ms - box.last_opportunity_ms < head.min_push_interval_ms:
        return NONE
    box.last_opportunity_ms = time_ms
    at = head.opportunities
    head.opportunities += 1
    found[at].place = place
    found[at].opportunity_ms = time_ms
    found[at].slot = slot
    found[at].last_ad = box.last_ad
    found[at].is_expired = head.watermark_ms > time_ms + head.decision_budget_ms
    return at


@compiled
def _fire_timers(head: Records, boxes: Records, sessions: Records, timers: Records, place: int, found: Records) -> None:
    """Fire all timers that the watermark has passed."""
    head.ordinal = 0
    limit = head.watermark_ms * 2 + 1
    while head.timers > 0 and timers[0].order <= limit:
        due_ms, kind, slot = timers[0].order >> 1, timers[0].order & 1, timers[0].slot
        box = boxes[slot]
        # Another rank: the box was forgotten, and the slot is another one's now.
        is_current = box.is_present and box.rank == timers[0].rank
        _pop_timer(head, timers)
        head.dwells -= kind
        if not is_current:
            continue
        if kind == DWELL:
            # A later tune has armed its own timer; this one is about a channel that was left in time.
            if box.tune_offset != NO_OFFSET and box.channel_ms + head.dwell_ms == due_ms:
                at = _offer(head, box, slot, place, due_ms, found)
                if at != NONE:
                    found[at].is_dwell = True
                    found[at].cause_offset = box.tune_offset
                    found[at].channel = box.channel
                    found[at].last_channel = box.last_channel
                box.tune_offset = NO_OFFSET
        elif box.housekeeping_ms == due_ms:
            _close_sessions(head, sessions, box)
            if box.first_session == NONE and box.last_event_ms + head.state_ttl_ms <= head.watermark_ms:
                box.is_present = False
                head.present -= 1
                head.roster += 1
            else:
                box.housekeeping_ms = NEVER_MS
                _arm_housekeeping(head, timers, sessions, box, slot)


@compiled
def _apply(
    head: Records,
    sessions: Records,
    timers: Records,
    box: Records,
    slot: int,
    place: int,
    time_ms: int,
    seq: int,
    event_type: int,
    name: int,
    found: Records,
) -> None:
    """What an event that is neither late nor a duplicate does to its box."""
    session = _session_at(head, sessions, box, slot, time_ms)
    session.events += 1
    _arm_housekeeping(head, timers, sessions, box, slot)
    if event_type == TUNE:
        session.tunes += 1
        _note_tune(session, time_ms, seq, name)
        _tune(head, timers, box, slot, time_ms, seq, name)
    elif event_type == AD_SHOWN:
        session.ads_shown += 1
        if _is_after(time_ms, seq, box.last_ad_ms, box.last_ad_seq):
            box.last_ad_ms = time_ms
            box.last_ad_seq = seq
            box.last_ad = name
    elif event_type == AD_BREAK:
        at = _offer(head, box, slot, place, time_ms, found)
        if at != NONE:
            found[at].is_dwell = False
            found[at].cause_offset = head.offset
            found[at].channel = name
            found[at].last_channel = box.last_channel if box.channel == name else box.channel
    elif event_type != HEARTBEAT and _is_after(time_ms, seq, box.power_ms, box.power_seq):
        box.power_ms = time_ms
        box.power_seq = seq
        box.is_standby = event_type == STANDBY


@compiled
def advance(
    heads: Records, boxes: Records, sessions: Records, timers: Records, log: Records, rows: Records, found: Records
) -> int:
    """Apply events in log order.

    Args:
        heads: One `HEAD`.
        boxes: `BOX` by slot.
        sessions: `SESSION`, open ones and free ones, with room for one more per event.
        timers: `TIMER`, a heap, with room for two more per event.
        log: The events, see `In`.
        rows: Room for one row per event, see `Out`.
        found: Room for one `OPPORTUNITY` per event and one per timer of a dwell.

    Returns:
        Rows emitted. Opportunities, closed sessions, late events and missing numbers are counted in `heads`.
    """
    head = heads[0]
    head.closed = head.opportunities = head.late = head.missing = 0
    emitted = 0
    for place in range(log.shape[1]):
        time_ms, seq, slot = log[_TIME, place], log[_SEQ, place], log[_SLOT, place]
        event_type, name = log[_TYPE, place], log[_NAME, place]
        head.offset = log[_OFFSET, place]
        if time_ms > head.watermark_ms:
            head.watermark_ms = time_ms
            _fire_timers(head, boxes, sessions, timers, place, found)
        box = boxes[slot]
        gap = 0
        if not box.is_present:
            _appear(head, box, time_ms, seq)
        else:
            gap = _note_seq(box, seq, time_ms)
            if gap == _DUPLICATE:
                continue
            box.last_event_ms = max(box.last_event_ms, time_ms)
        is_late = time_ms < head.watermark_ms - head.allowed_lateness_ms
        if is_late:
            head.late += 1
            _arm_housekeeping(head, timers, sessions, box, slot)
        else:
            _apply(head, sessions, timers, box, slot, place, time_ms, seq, event_type, name, found)
        # Three jumps by the whole range of a sequence number leave 64 bits.
        head.missing = head.missing + gap if gap <= MANY - head.missing else MANY
        rows[_R_PLACE, emitted] = place
        rows[_R_KEY_HIGH, emitted] = box.key_high
        rows[_R_KEY_LOW, emitted] = box.key_low
        rows[_R_GAP, emitted] = gap
        rows[_R_LATE, emitted] = is_late
        # A late tune keeps its own channel, because the box's state does not speak of that time.
        rows[_R_CHANNEL, emitted] = name if is_late and event_type == TUNE else box.channel
        rows[_R_LAST_CHANNEL, emitted] = box.last_channel
        rows[_R_LAST_AD, emitted] = box.last_ad
        emitted += 1
    return emitted
