"""Write faults into a stream of events, and know of each what must become of it.

What happens to an event follows from (seed, box, seq) alone, so neither batching nor the pace of the driver changes it.
A display (`ad_shown`) is never made unreadable: every display that the books count as produced is to be found as a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from heapq import heappop, heappush
from typing import get_args

import msgspec

from datastreamx.model.events import AdShown, BoxEvent
from datastreamx.wire.events import MAX_EVENT_BYTES, encode_event
from simulator.fleet.draws import draw, stream_seed, unit

NO_FAULT = ""


class Landing(Enum):
    """Where a record has to end."""

    ROW = "row"
    LATE_ROW = "late_row"
    DEAD_LETTER = "dead_letter"
    DROPPED = "dropped"


class Fault(msgspec.Struct, frozen=True):
    """One kind of fault: where its records land, and for dead letters with which reason."""

    landing: Landing
    reason: str | None = None


FAULTS: dict[str, Fault] = {
    NO_FAULT: Fault(Landing.ROW),
    "duplicate": Fault(Landing.DROPPED),
    "reorder": Fault(Landing.ROW),
    "malformed": Fault(Landing.DEAD_LETTER, "malformed"),
    "invalid": Fault(Landing.DEAD_LETTER, "invalid"),
    "unknown_type": Fault(Landing.DEAD_LETTER, "unknown_type"),
    "oversized": Fault(Landing.DEAD_LETTER, "oversized"),
    "no_value": Fault(Landing.DEAD_LETTER, "no_value"),
    "key_mismatch": Fault(Landing.DEAD_LETTER, "key_mismatch"),
    "clock_ahead": Fault(Landing.ROW),
    "clock_behind": Fault(Landing.ROW),
    "clock_far_ahead": Fault(Landing.DEAD_LETTER, "clock_skew"),
    "clock_far_behind": Fault(Landing.LATE_ROW),
}
"""All kinds. `duplicate` is the second copy only; the first lands as a row."""

_RECORD_KINDS = (
    "duplicate",
    "reorder",
    "malformed",
    "invalid",
    "unknown_type",
    "oversized",
    "no_value",
    "key_mismatch",
)
_CLOCK_KINDS = ("clock_ahead", "clock_behind", "clock_far_ahead", "clock_far_behind")

Rate = float

_TYPE_NAMES: dict[type, str] = {kind: str(kind.__struct_config__.tag) for kind in get_args(BoxEvent)}


class FaultRates(msgspec.Struct, frozen=True, kw_only=True):
    """How often each fault happens: clocks as a share of the boxes, all others as a share of the events.

    A box with a wrong clock has it for ever, and no other fault: each record has one certain landing.

    Attributes:
        clock_ahead: Within the skew that is accepted.
        clock_behind: Within the allowed lateness.
        clock_far_ahead: Beyond it: every event of the box is a dead letter.
        clock_far_behind: Beyond it: every event of the box is late. (All but those that are the first of their key
            group, for lateness is measured against earlier events.)
    """

    duplicate: Rate = 0.0
    reorder: Rate = 0.0
    malformed: Rate = 0.0
    invalid: Rate = 0.0
    unknown_type: Rate = 0.0
    oversized: Rate = 0.0
    no_value: Rate = 0.0
    key_mismatch: Rate = 0.0
    clock_ahead: Rate = 0.0
    clock_behind: Rate = 0.0
    clock_far_ahead: Rate = 0.0
    clock_far_behind: Rate = 0.0

    def __post_init__(self) -> None:
        """Refuse rates that are no probabilities; raises ValueError."""
        for kinds in (_RECORD_KINDS, _CLOCK_KINDS):
            rates = [getattr(self, kind) for kind in kinds]
            if min(rates) < 0 or sum(rates) > 1:
                raise ValueError(f"the rates of {', '.join(kinds)} must be at least 0 and sum to at most 1: {rates}")


PRESETS: dict[str, FaultRates] = {
    "none": FaultRates(),
    "some": FaultRates(
        duplicate=0.01,
        reorder=0.01,
        malformed=0.0005,
        invalid=0.0005,
        unknown_type=0.0005,
        oversized=0.0001,
        no_value=0.0001,
        key_mismatch=0.0001,
        clock_ahead=0.005,
        clock_behind=0.005,
        clock_far_ahead=0.001,
        clock_far_behind=0.001,
    ),
    "many": FaultRates(
        duplicate=0.1,
        reorder=0.1,
        malformed=0.005,
        invalid=0.005,
        unknown_type=0.005,
        oversized=0.002,
        no_value=0.002,
        key_mismatch=0.002,
        clock_ahead=0.02,
        clock_behind=0.02,
        clock_far_ahead=0.01,
        clock_far_behind=0.01,
    ),
}


def parse_faults(text: str) -> FaultRates:
    """Rates from the name of a preset or from `kind=rate,kind=rate`.

    Raises:
        ValueError: Unknown preset or kind, or a rate that is no probability.
    """
    if text in PRESETS:
        return PRESETS[text]
    rates: dict[str, float] = {}
    for part in text.split(","):
        kind, separator, rate = part.partition("=")
        if not separator or kind not in FAULTS or kind == NO_FAULT:
            known = ", ".join(kind for kind in FAULTS if kind)
            raise ValueError(f"{part!r} is neither one of {', '.join(PRESETS)} nor KIND=RATE with a kind of {known}")
        try:
            rates[kind] = float(rate)
        except ValueError:
            raise ValueError(f"{part!r}: {rate!r} is no number") from None
    return FaultRates(**rates)


class FaultBounds(msgspec.Struct, frozen=True, kw_only=True):
    """What the pipeline accepts, and how far faults go.

    Attributes:
        max_clock_skew_ms: `events.max_clock_skew_ms` of the pipeline.
        allowed_lateness_ms: `viewing.allowed_lateness_ms` of the pipeline.
        reorder_ms: A reordered record is held back for at most this long. With a heartbeat every 30 s, half a minute
            would let half of them be overtaken by a record of their own box; a speed-up brings more.
        duplicate_ms: The second copy comes at most this much later, and in one case of four at once.
    """

    max_clock_skew_ms: int = 5_000
    allowed_lateness_ms: int = 60_000
    reorder_ms: int = 15_000
    duplicate_ms: int = 5_000

    @classmethod
    def fitting(cls, *, max_clock_skew_ms: int, allowed_lateness_ms: int) -> FaultBounds:
        """Bounds for a pipeline with these settings: nothing is reordered beyond half of what it tolerates."""
        tolerated_ms = allowed_lateness_ms - max_clock_skew_ms
        return cls(
            max_clock_skew_ms=max_clock_skew_ms,
            allowed_lateness_ms=allowed_lateness_ms,
            reorder_ms=min(cls().reorder_ms, max(1, tolerated_ms // 2)),
        )


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record as it goes to the topic.

    Attributes:
        event_type: Type of the event that it was made from, also if it can no longer be read.
        fault: Key of `FAULTS`.
    """

    key: bytes
    value: bytes | None
    event_type: str
    fault: str = NO_FAULT

    @property
    def landing(self) -> Landing:
        """Where the record has to end."""
        return FAULTS[self.fault].landing


class FaultInjector:
    """Turns events into records, some of them faulty. Pure: time is what the caller says it is.

    Raises:
        ValueError: Under these bounds a record that is delayed, or stamped by a slow clock, might be late.
    """

    def __init__(self, rates: FaultRates, seed: int, bounds: FaultBounds | None = None) -> None:
        self._bounds = bounds = bounds or FaultBounds()
        delayed_ms = bounds.reorder_ms + bounds.max_clock_skew_ms
        if (rates.reorder or rates.clock_behind) and delayed_ms > bounds.allowed_lateness_ms:
            raise ValueError(
                f"reorder_ms ({bounds.reorder_ms}) plus max_clock_skew_ms ({bounds.max_clock_skew_ms}) exceed "
                f"allowed_lateness_ms ({bounds.allowed_lateness_ms}): leave out reorder and clock_behind, "
                "or allow more lateness"
            )
        self._records_seed = stream_seed(seed, "record faults")
        self._clocks_seed = stream_seed(seed, "clock faults")
        self._record_limits = _limits(rates, _RECORD_KINDS)
        self._clock_limits = _limits(rates, _CLOCK_KINDS)
        self._held: list[tuple[int, int, Record]] = []
        self._holds = 0

    @property
    def held(self) -> int:
        """Records held back for later."""
        return len(self._held)

    def feed(self, event: BoxEvent, now_ms: int) -> list[Record]:
        """Records to send at once for `event`; others may be held back."""
        key = event.box_id.encode()
        event_type = _TYPE_NAMES[type(event)]
        if self._clock_limits:
            kind, offset_ms = self._clock(key)
            if kind:
                shifted = msgspec.structs.replace(event, event_time_ms=event.event_time_ms + offset_ms)
                return [Record(key, encode_event(shifted), event_type, kind)]
        record = Record(key, encode_event(event), event_type)
        if self._record_limits:
            bits = draw(self._records_seed, _hash(key), event.seq)
            kind = _pick(self._record_limits, unit(bits))
            if kind:
                return self._disturb(record, event, kind, draw(bits, 0), now_ms)
        return [record]

    def _disturb(self, record: Record, event: BoxEvent, kind: str, bits: int, now_ms: int) -> list[Record]:
        if kind == "duplicate":
            copy = msgspec.structs.replace(record, fault=kind)
            if bits & 3 == 0:
                return [record, copy]
            self._hold(now_ms + 1 + (bits >> 2) % self._bounds.duplicate_ms, copy)
            return [record]
        if kind == "reorder":
            self._hold(now_ms + 1 + bits % self._bounds.reorder_ms, msgspec.structs.replace(record, fault=kind))
            return []
        return [record if isinstance(event, AdShown) else _spoil(record, event, kind, bits)]

    def release(self, now_ms: int) -> Iterator[tuple[int, Record]]:
        """Records held back until `now_ms` or earlier, with the time at which each was due."""
        held = self._held
        while held and held[0][0] <= now_ms:
            due_ms, _, record = heappop(held)
            yield due_ms, record

    def release_all(self) -> Iterator[tuple[int, Record]]:
        """Everything still held back, in the order in which it was due."""
        while self._held:
            due_ms, _, record = heappop(self._held)
            yield due_ms, record

    def transform(self, events: Iterable[BoxEvent]) -> Iterator[tuple[int, Record]]:
        """Records for `events` with the time at which each is sent; events must come in the order of event time."""
        for event in events:
            now_ms = event.event_time_ms
            yield from self.release(now_ms)
            for record in self.feed(event, now_ms):
                yield now_ms, record
        yield from self.release_all()

    def _hold(self, due_ms: int, record: Record) -> None:
        self._holds += 1
        heappush(self._held, (due_ms, self._holds, record))

    def _clock(self, key: bytes) -> tuple[str, int]:
        """Fault of the box's clock and by how many milliseconds it is wrong."""
        bits = draw(self._clocks_seed, _hash(key))
        kind = _pick(self._clock_limits, unit(bits))
        if not kind:
            return kind, 0
        skew, lateness = self._bounds.max_clock_skew_ms, self._bounds.allowed_lateness_ms
        # Half-way is far enough from the bounds for the time that a record takes to the broker and for the watermark
        # to be ahead by a skew; beyond them a minute is.
        part = unit(draw(bits, 1))
        offsets_ms = {
            "clock_ahead": int(part * skew / 2),
            "clock_behind": -int(part * (lateness - skew) / 2),
            "clock_far_ahead": skew + 60_000 + int(part * 3_600_000),
            "clock_far_behind": -(lateness + 60_000 + int(part * 3_600_000)),
        }
        return kind, offsets_ms[kind]


def _limits(rates: FaultRates, kinds: Iterable[str]) -> list[tuple[float, str]]:
    """Upper ends of the intervals of [0, 1) that stand for `kinds`; those that never happen are left out."""
    limits = []
    total = 0.0
    for kind in kinds:
        rate = getattr(rates, kind)
        if rate > 0:
            total += rate
            limits.append((total, kind))
    return limits


def _pick(limits: list[tuple[float, str]], probability: float) -> str:
    for limit, kind in limits:
        if probability < limit:
            return kind
    return NO_FAULT


def _hash(key: bytes) -> int:
    return int.from_bytes(key, "big") % (1 << 61)


def _spoil(record: Record, event: BoxEvent, kind: str, bits: int) -> Record:
    """The record that cannot be processed for the reason `kind`."""
    value = record.value or b""
    fields = msgspec.to_builtins(event)
    if kind == "malformed":
        # Cut at its very end: in the middle of a number, what is left of that may be refused first, as out of bounds.
        forms = (value[:-1], b"\xff\xfe" + value, b"<event/>", b"")
        return Record(record.key, forms[bits % len(forms)], record.event_type, kind)
    if kind == "no_value":
        return Record(record.key, None, record.event_type, kind)
    if kind == "key_mismatch":
        return Record(record.key + b"-other", value, record.event_type, kind)
    if kind == "invalid":
        fields["seq"] = -1 - fields["seq"]
    elif kind == "unknown_type":
        fields["type"] = "volume"
    else:
        fields["padding"] = "x" * MAX_EVENT_BYTES
    return Record(record.key, msgspec.json.encode(fields), record.event_type, kind)
