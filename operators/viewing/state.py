"""State of one key group: a deterministic state machine from decoded chunks to rows and opportunities.

No clock, no randomness, no dependence on how the log was cut into chunks. Time is the watermark: the largest event time
among the key group's own events. So whatever is emitted has a position, (offset of the record, ordinal), that every
replay repeats. The machine itself is in kernel.py; here are strings, Arrow, room and the way into a snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import NamedTuple, cast

import msgspec
import numpy as np

from datastreamx.config import ViewingConfig
from datastreamx.model import identity
from datastreamx.model.auction import Opportunity
from datastreamx.model.chunk import DecodedChunk
from datastreamx.model.events import AdBreak, AdShown, BoxEvent, Consent, Heartbeat, Power, Tune
from datastreamx.model.keygroup import KeyGroup
from operators.viewing import kernel, packing
from operators.viewing.columns import KEY_DIGITS, EventRows, SessionRows, key_digits
from operators.viewing.layout import BOX, HEAD, OPPORTUNITY, RULES, SESSION, TIMER, Array, In, Int64s, Out
from operators.viewing.names import Names

CONSENTS_SWEEP_FIRST = 64
_STRINGS = msgspec.msgpack.Decoder(list[str])
_TYPE_CODES: dict[type[BoxEvent], int] = {
    Heartbeat: kernel.HEARTBEAT,
    Tune: kernel.TUNE,
    AdShown: kernel.AD_SHOWN,
    AdBreak: kernel.AD_BREAK,
    Power: kernel.POWER_ON,
}
_HEAD_AT = {field: at for at, field in enumerate(HEAD.names or ())}


@dataclass(slots=True)
class ViewingOutput:
    """What one call emitted, in order.

    Attributes:
        events: Rows of box_events; `None` without any.
        sessions: Rows of viewing_sessions; `None` without any. Both are columns only when asked for.
        opportunities: Opportunities, expired ones included.
        late: Events recorded as late.
        duplicates: Events dropped because their sequence number was seen before.
        missing: Sequence numbers skipped; no more than fit into 64 bits.
    """

    events: EventRows | None
    sessions: SessionRows | None
    opportunities: list[Opportunity]
    late: int
    duplicates: int
    missing: int


class Packed(NamedTuple):
    """State of a key group as values and bytes.

    Strings are most of what a snapshot takes to write, and seldom change from one to the next: they are MessagePack of
    a list already.

    Attributes:
        watermark_ms: Largest event time so far.
        names: Strings of the codes 1, 2 and so on in `octets`.
        consents: What viewers allowed with the tunes that wait for their dwell, by offset of the tune.
        box_ids: Raw ids of the boxes.
        sessions: How many sessions are open.
        octets: State of the boxes, in the order of `box_ids`; see packing.py.
    """

    watermark_ms: int
    names: msgspec.Raw
    consents: dict[int, Consent]
    box_ids: msgspec.Raw
    sessions: int
    octets: bytes


class KeyGroupState:
    """All boxes of one key group.

    Args:
        key_group: Which one.
        config: Durations, all in event time.
        topic: Topic of the events; part of every auction id.
        pseudonym: From raw box id to box key, 32 hex digits.
    """

    def __init__(self, key_group: KeyGroup, config: ViewingConfig, topic: str, pseudonym: Callable[[str], str]) -> None:
        self.key_group = key_group
        self.names = Names()
        self.consents: dict[int, Consent] = {}
        """Of tunes, by offset; some of them no longer wait for their dwell."""
        self.slots: dict[str, int] = {}
        """By raw box id; some of these boxes are forgotten, and their slots not yet given back."""
        self.heads = np.zeros(1, HEAD)
        self._head_words = self.heads.view(np.int64)
        self.boxes = np.zeros(0, BOX)
        self.sessions = np.zeros(0, SESSION)
        self._timers = np.zeros(0, TIMER)
        self._found = np.empty(0, OPPORTUNITY)
        self._box_ids: list[str | None] = []
        self._free_slots: list[int] = []
        self._config = config
        self._topic = topic
        self._pseudonym = pseudonym
        self._consents_sweep_at = CONSENTS_SWEEP_FIRST
        self._box_ids_packed = msgspec.Raw()
        self._box_ids_packed_at = -1
        for rule in RULES:
            self.heads[rule] = getattr(config, rule)
        self.heads["watermark_ms"] = kernel.NEVER_MS
        self.heads["free_session"] = kernel.NONE

    def __len__(self) -> int:
        return self._head("present")

    def process(self, chunk: DecodedChunk) -> ViewingOutput:
        """Apply a chunk's events in log order."""
        events = chunk.events
        size = len(events)
        if self.names.is_due_for_sweep:
            self._sweep_names()
        types, names = self._codes(chunk.offsets, events)
        slots = self._slots_of([event.box_id for event in events])
        event_times_ms = [event.event_time_ms for event in events]
        seqs = [event.seq for event in events]
        numbers = chain(chunk.offsets, chunk.timestamps_ms, event_times_ms, seqs, types, names, slots)
        log = np.fromiter(numbers, np.int64, In.SIZE * size).reshape(In.SIZE, size)
        self._make_room(size)
        rows = np.empty((Out.SIZE, size), np.int64)
        found = self._found
        emitted = kernel.advance(self.heads, self.boxes, self.sessions, self._timers, log, rows, found)
        opportunities = self._head("opportunities")
        return ViewingOutput(
            events=self._event_rows(log, events, rows[:, :emitted]) if emitted else None,
            sessions=self._closed_sessions(),
            opportunities=self._opportunities(found[:opportunities], chunk) if opportunities else [],
            late=self._head("late"),
            duplicates=size - emitted,
            missing=self._head("missing"),
        )

    def pack(self) -> Packed:
        """Everything that a later process needs to go on."""
        room = len(self.boxes) * packing.BOX_BYTES_MAX + self._head("sessions") * packing.SESSION_BYTES_MAX
        out = np.empty(room, np.uint8)
        size, sessions = packing.pack(self.boxes, self.sessions, self._words(), packing.PLANS, out)
        consents = self._armed_consents()
        octets = out[:size].tobytes()
        return Packed(
            self._head("watermark_ms"), self.names.packed(), consents, self._packed_box_ids(), sessions, octets
        )

    def restore(self, packed: Packed) -> None:
        """Invert `pack`, in an empty state. Timers follow from the boxes.

        So do pseudonyms: after a change of the secret every box has its new one at once.

        Raises:
            ValueError: The bytes are not what `pack` writes.
            msgspec.DecodeError: Neither are the strings.
        """
        box_ids = _STRINGS.decode(packed.box_ids)
        count, size = len(box_ids), len(packed.octets)
        if packed.sessions > size:
            raise ValueError(f"{size} bytes cannot hold {packed.sessions} sessions")
        self.heads["watermark_ms"] = packed.watermark_ms
        for name in _STRINGS.decode(packed.names):
            self.names.code(name)
        self.consents = dict(packed.consents)
        # Fresh slots are given in rising order.
        self._slots_of(box_ids)
        self._make_room(max(count, packed.sessions))
        octets = np.zeros(size + packing.BOX_BYTES_MAX + packing.SESSION_BYTES_MAX, np.uint8)
        octets[:size] = np.frombuffer(packed.octets, np.uint8)
        is_sound = packing.unpack(
            self.heads, self.boxes, self.sessions, self._words(), packing.PLANS, octets, count, size
        )
        if not is_sound:
            raise ValueError(f"{size} bytes are not the {count} boxes that they are said to be")
        kernel.arm_all(self.heads, self.boxes, self._timers)

    def _head(self, field: str) -> int:
        return self._head_words.item(_HEAD_AT[field])

    def _words(self) -> tuple[Array, ...]:
        """The same memory as matrices of integers, a record a row."""
        return tuple(
            records.view(np.int64).reshape(len(records), records.itemsize // 8)
            for records in (self.heads, self.boxes, self.sessions)
        )

    def _codes(self, offsets: Sequence[int], events: Sequence[BoxEvent]) -> tuple[list[int], list[int]]:
        """Type and name of each event as the kernel takes them; consents of tunes are put aside."""
        types = [*map(_TYPE_CODES.__getitem__, map(type, events))]
        names = [kernel.NO_NAME] * len(events)
        code = self.names.code
        for place, event_type in enumerate(types):
            if event_type == kernel.HEARTBEAT:
                continue
            event = events[place]
            if type(event) is Tune:
                names[place] = code(event.channel_id)
                if event.consent is not None:
                    self.consents[offsets[place]] = event.consent
            elif type(event) is AdShown:
                names[place] = code(event.ad_id)
            elif type(event) is AdBreak:
                names[place] = code(event.channel_id)
            elif type(event) is Power and event.state == "standby":
                types[place] = kernel.STANDBY
        if len(self.consents) > self._consents_sweep_at:
            fresh = {offset: self.consents[offset] for offset in offsets if offset in self.consents}
            self.consents = self._armed_consents() | fresh
            self._consents_sweep_at = max(CONSENTS_SWEEP_FIRST, 2 * len(self.consents))
        return types, names

    def _packed_box_ids(self) -> msgspec.Raw:
        roster = self._head("roster")
        if self._box_ids_packed_at != roster:
            present = [*compress(self._box_ids, self.boxes["is_present"].tolist())]
            self._box_ids_packed = msgspec.Raw(msgspec.msgpack.encode(present))
            self._box_ids_packed_at = roster
        return self._box_ids_packed

    def _armed_consents(self) -> dict[int, Consent]:
        """Consents of the tunes that still wait for their dwell."""
        if not self.consents:
            return {}
        armed = np.sort(self.boxes["tune_offset"][self.boxes["is_present"] == 1]).tolist()
        return {offset: self.consents[offset] for offset in armed if offset in self.consents}

    def _slots_of(self, box_ids: list[str]) -> list[int]:
        """Slot of each box; new boxes get one."""
        known = [*map(self.slots.get, box_ids)]
        unknown = known.count(None)
        if unknown > len(self._free_slots):
            self._make_slots(box_ids)
        return [self._slot_of(box_id) for box_id in box_ids] if unknown else cast("list[int]", known)

    def _slot_of(self, box_id: str) -> int:
        slot = self.slots.get(box_id)
        if slot is None:
            slot = self.slots[box_id] = self._free_slots.pop()
            self._box_ids[slot] = box_id
            self.boxes["rank"][slot] = identity.rank(box_id)
            key = self._pseudonym(box_id)
            self.boxes["key_high"][slot] = int(key[:16], 16)
            self.boxes["key_low"][slot] = int(key[16:], 16)
        return slot

    def _make_slots(self, box_ids: list[str]) -> None:
        """Give back the slots of forgotten boxes; make more, lest this has to be done again soon."""
        for slot in np.flatnonzero(self.boxes["is_present"] == 0).tolist():
            box_id = self._box_ids[slot]
            if box_id is not None:
                del self.slots[box_id]
                self._box_ids[slot] = None
                self._free_slots.append(slot)
        # A box that was forgotten just now may be among those that are wanted.
        size, needed = len(self.boxes), len({box_id for box_id in box_ids if box_id not in self.slots})
        if len(self._free_slots) < needed + size // 16:
            self.boxes = _grown(self.boxes, size, needed)
            self._box_ids += [None] * (len(self.boxes) - size)
            self._free_slots += range(len(self.boxes) - 1, size - 1, -1)

    def _make_room(self, events: int) -> None:
        """For a session and two timers per event, the housekeeping and a dwell; and what all of these may find."""
        self.sessions = _grown(self.sessions, self._head("sessions"), events)
        self._timers = _grown(self._timers, self._head("timers"), 2 * events)
        room = self._head("dwells") + events
        if len(self._found) < room:
            self._found = np.empty(room + room // 8, OPPORTUNITY)

    def _sweep_names(self) -> None:
        # What forgotten boxes and free sessions hold is nobody's any more, but it has to stay inside the table.
        boxes, sessions = self.boxes, self.sessions
        self.names.sweep(
            boxes["channel"],
            boxes["last_channel"],
            boxes["last_ad"],
            sessions["first_channel"],
            sessions["last_channel"],
        )

    def _event_rows(self, log: Int64s, events: Sequence[BoxEvent], rows: Int64s) -> EventRows:
        if rows.shape[1] != len(events):
            places = rows[Out.PLACE]
            log, events = log[:, places], [events[place] for place in places.tolist()]
        return EventRows(self.key_group, log, events, rows, self.names.table)

    def _key_list(self, slots: Int64s) -> list[str]:
        digits = key_digits(self.boxes["key_high"][slots], self.boxes["key_low"][slots])
        return [digits[at : at + KEY_DIGITS] for at in range(0, len(digits), KEY_DIGITS)]

    def _closed_sessions(self) -> SessionRows | None:
        count = self._head("closed")
        if not count:
            return None
        closed = np.empty(count, SESSION)
        kernel.list_closed(self.heads, self.sessions, closed)
        return SessionRows(self.key_group, closed, self._key_list(closed["slot"]), self.names.table)

    def _opportunities(self, found: Array, chunk: DecodedChunk) -> list[Opportunity]:
        keys = self._key_list(found["slot"])
        return [self._opportunity(one, key, chunk) for one, key in zip(found.tolist(), keys, strict=True)]

    def _opportunity(self, found: tuple[int, ...], box_key: str, chunk: DecodedChunk) -> Opportunity:
        place, cause_offset, opportunity_ms, slot, channel, last_channel, last_ad, is_dwell, is_expired = found
        slot_ms, break_id = self._config.slot_ms, None
        if is_dwell:
            consent = self.consents.pop(cause_offset, None)
        else:
            event = chunk.events[place]
            if not isinstance(event, AdBreak):
                raise AssertionError("an opportunity without dwell or break")
            slot_ms, break_id, consent = event.duration_ms, event.break_id, event.consent
        texts = self.names.table.texts
        box_id, channel_id = self._box_ids[slot], texts[channel]
        if box_id is None or channel_id is None:
            raise AssertionError("an opportunity without a box or a channel")
        partition, group = self.key_group
        return Opportunity(
            auction_id=identity.auction_id(self._topic, partition, cause_offset, box_id),
            box_id=box_id,
            box_key=box_key,
            partition=partition,
            group=group,
            offset=chunk.offsets[place],
            emitted_ms=chunk.timestamps_ms[place],
            trigger="dwell" if is_dwell else "ad_break",
            opportunity_ms=opportunity_ms,
            deadline_ms=opportunity_ms + self._config.decision_budget_ms,
            slot_ms=slot_ms,
            channel_id=channel_id,
            last_channel_id=texts[last_channel],
            last_ad_id=texts[last_ad],
            break_id=break_id,
            consent=consent,
            expired=is_expired == 1,
        )


def _grown(records: Array, used: int, more: int) -> Array:
    """Room for `more` records behind those in use: the same array, or a larger copy with an eighth besides."""
    needed = used + more
    if needed <= len(records):
        return records
    larger = np.zeros(needed + needed // 8, records.dtype)
    larger[:used] = records[:used]
    return larger
