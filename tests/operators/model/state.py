"""State of one key group, as plainly as it can be said: from records to rows and opportunities.

No clock, no randomness, no dependence on how the log was cut into chunks. Time is the watermark: the largest event time
among the key group's own records. For each record in turn: the watermark moves, timers that are due fire in order of
(due time, kind, rank of the box), then the event applies. So whatever is emitted has a position, (offset of the record,
ordinal), that every replay repeats.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from datastreamx.config import ViewingConfig
from datastreamx.model import identity
from datastreamx.model.auction import Opportunity, Trigger
from datastreamx.model.chunk import DecodedChunk
from datastreamx.model.events import TYPE_NAMES, AdBreak, AdShown, BoxEvent, Consent, Heartbeat, Power, Tune
from datastreamx.model.keygroup import KeyGroup
from datastreamx.tables import Row
from tests.operators.model.box import NEVER_MS, Box, Session

_HOUSEKEEPING = 0
_DWELL = 1

Timer = tuple[int, int, int, str]
"""(due in event time ms, kind, rank, box id): so ties break the same way in every replay."""


class Record(NamedTuple):
    """One event and where it stood in the log."""

    offset: int
    timestamp_ms: int
    event: BoxEvent


@dataclass(slots=True)
class ModelOutput:
    """What one call emitted, in order.

    Attributes:
        events: Rows of box_events.
        sessions: Rows of viewing_sessions.
        opportunities: Opportunities, expired ones included.
        late: Events recorded as late.
        duplicates: Events dropped because their sequence number was seen before.
        missing: Sequence numbers skipped.
    """

    events: list[Row] = field(default_factory=list)
    sessions: list[Row] = field(default_factory=list)
    opportunities: list[Opportunity] = field(default_factory=list)
    late: int = 0
    duplicates: int = 0
    missing: int = 0


class KeyGroupModel:
    """All boxes of one key group.

    Args:
        key_group: Which one.
        config: Durations, all in event time.
        topic: Topic of the events; part of every auction id.
        pseudonym: From raw box id to box key.
    """

    def __init__(self, key_group: KeyGroup, config: ViewingConfig, topic: str, pseudonym: Callable[[str], str]) -> None:
        self.key_group = key_group
        self._config = config
        self._topic = topic
        self._pseudonym = pseudonym
        self.watermark_ms = NEVER_MS
        self.boxes: dict[str, Box] = {}
        self._timers: list[Timer] = []
        # Sessions that the record in hand has closed so far.
        self._session_ordinal = 0

    def process(self, chunk: DecodedChunk) -> ModelOutput:
        """Apply a chunk's events in log order."""
        out = ModelOutput()
        for record in map(Record, chunk.offsets, chunk.timestamps_ms, chunk.events):
            event_time_ms = record.event.event_time_ms
            if event_time_ms > self.watermark_ms:
                self.watermark_ms = event_time_ms
                if self._timers and self._timers[0][0] <= event_time_ms:
                    self._fire_timers(record, out)
            self._apply(record, out)
        return out

    def _arm(self, due_ms: int, kind: int, box_id: str) -> None:
        heapq.heappush(self._timers, (due_ms, kind, identity.rank(box_id), box_id))

    def _apply(self, record: Record, out: ModelOutput) -> None:
        event = record.event
        event_time_ms = event.event_time_ms
        box = self.boxes.get(event.box_id)
        if box is None:
            gap = 0
            box = Box(self._pseudonym(event.box_id), event.seq, event_time_ms)
            self.boxes[event.box_id] = box
        else:
            missing = box.note_seq(event.seq, event_time_ms)
            if missing is None:
                out.duplicates += 1
                return
            gap = missing
            box.last_event_ms = max(box.last_event_ms, event_time_ms)
        out.missing += gap
        if event_time_ms < self.watermark_ms - self._config.allowed_lateness_ms:
            out.late += 1
            self._arm_housekeeping(event.box_id, box)
            self._emit_event(record, box, gap, out, is_late=True)
            return
        session = box.session_at(event_time_ms, self._config.session_gap_ms)
        session.events += 1
        self._arm_housekeeping(event.box_id, box)
        match event:
            case Tune():
                session.note_tune(event_time_ms, event.seq, event.channel_id)
                if box.tune(event_time_ms, event.seq, event.channel_id):
                    box.tune_offset, box.tune_consent = record.offset, event.consent
                    self._arm(event_time_ms + self._config.dwell_ms, _DWELL, event.box_id)
            case AdShown():
                session.ads_shown += 1
                box.show_ad(event_time_ms, event.seq, event.ad_id)
            case Power():
                box.power(event_time_ms, event.seq, standby=event.state == "standby")
            case AdBreak():
                self._on_ad_break(event, box, record, out)
            case Heartbeat():
                pass
        self._emit_event(record, box, gap, out, is_late=False)

    def _on_ad_break(self, event: AdBreak, box: Box, record: Record, out: ModelOutput) -> None:
        same_channel = box.channel_id == event.channel_id
        self._offer(
            box_id=event.box_id,
            box=box,
            trigger="ad_break",
            cause_offset=record.offset,
            record=record,
            opportunity_ms=event.event_time_ms,
            channel_id=event.channel_id,
            last_channel_id=box.last_channel_id if same_channel else box.channel_id,
            slot_ms=event.duration_ms,
            break_id=event.break_id,
            consent=event.consent,
            out=out,
        )

    def _fire_timers(self, record: Record, out: ModelOutput) -> None:
        timers, watermark_ms = self._timers, self.watermark_ms
        self._session_ordinal = 0
        while timers and timers[0][0] <= watermark_ms:
            due_ms, kind, _, box_id = heapq.heappop(timers)
            box = self.boxes.get(box_id)
            if box is None:
                continue
            if kind == _DWELL:
                # A later tune has armed its own timer; this one is about a channel that was left in time.
                if box.tune_offset is not None and box.channel_ms + self._config.dwell_ms == due_ms:
                    self._on_dwell(box_id, box, due_ms, record, out)
            elif box.housekeeping_ms == due_ms:
                self._keep_house(box_id, box, record, out)

    def _on_dwell(self, box_id: str, box: Box, due_ms: int, record: Record, out: ModelOutput) -> None:
        consent, cause_offset = box.tune_consent, box.tune_offset
        box.tune_offset = box.tune_consent = None
        assert box.channel_id is not None
        assert cause_offset is not None
        self._offer(
            box_id=box_id,
            box=box,
            trigger="dwell",
            cause_offset=cause_offset,
            record=record,
            opportunity_ms=due_ms,
            channel_id=box.channel_id,
            last_channel_id=box.last_channel_id,
            slot_ms=self._config.slot_ms,
            break_id=None,
            consent=consent,
            out=out,
        )

    def _keep_house(self, box_id: str, box: Box, record: Record, out: ModelOutput) -> None:
        """Close sessions that nothing can join any more; forget a box that is silent for too long."""
        closing_ms = self._config.session_gap_ms + self._config.allowed_lateness_ms
        for session in [s for s in box.sessions if s.end_ms + closing_ms <= self.watermark_ms]:
            box.sessions.remove(session)
            self._emit_session(record, box, session, out)
        if not box.sessions and box.last_event_ms + self._config.state_ttl_ms <= self.watermark_ms:
            del self.boxes[box_id]
        else:
            box.housekeeping_ms = NEVER_MS
            self._arm_housekeeping(box_id, box)

    def _arm_housekeeping(self, box_id: str, box: Box) -> None:
        """Make sure that the box's timer is due no later than its next closing or forgetting.

        Most events only move that moment further away; then the timer stays where it is and, when it fires for
        nothing, is set anew. One timer per box instead of one per event.
        """
        if box.sessions:
            first_end_ms = min([session.end_ms for session in box.sessions])
            due_ms = first_end_ms + self._config.session_gap_ms + self._config.allowed_lateness_ms
        else:
            due_ms = box.last_event_ms + self._config.state_ttl_ms
        if box.housekeeping_ms == NEVER_MS or due_ms < box.housekeeping_ms:
            box.housekeeping_ms = due_ms
            self._arm(due_ms, _HOUSEKEEPING, box_id)

    def _offer(
        self,
        *,
        box_id: str,
        box: Box,
        trigger: Trigger,
        cause_offset: int,
        record: Record,
        opportunity_ms: int,
        channel_id: str,
        last_channel_id: str | None,
        slot_ms: int,
        break_id: str | None,
        consent: Consent | None,
        out: ModelOutput,
    ) -> None:
        """Emit an opportunity, unless the box is in standby or had one too recently."""
        if box.standby:
            return
        since_last_ms = opportunity_ms - box.last_opportunity_ms
        if box.last_opportunity_ms != NEVER_MS and since_last_ms < self._config.min_push_interval_ms:
            return
        box.last_opportunity_ms = opportunity_ms
        deadline_ms = opportunity_ms + self._config.decision_budget_ms
        out.opportunities.append(
            Opportunity(
                auction_id=identity.auction_id(self._topic, self.key_group.partition, cause_offset, box_id),
                box_id=box_id,
                box_key=box.box_key,
                partition=self.key_group.partition,
                group=self.key_group.group,
                offset=record.offset,
                emitted_ms=record.timestamp_ms,
                trigger=trigger,
                opportunity_ms=opportunity_ms,
                deadline_ms=deadline_ms,
                slot_ms=slot_ms,
                channel_id=channel_id,
                last_channel_id=last_channel_id,
                last_ad_id=box.last_ad_id,
                break_id=break_id,
                consent=consent,
                expired=self.watermark_ms > deadline_ms,
            )
        )

    def _emit_event(self, record: Record, box: Box, gap: int, out: ModelOutput, *, is_late: bool) -> None:
        event = record.event
        shown = event if isinstance(event, AdShown) else None
        ad_break = event if isinstance(event, AdBreak) else None
        out.events.append(
            (
                event.event_time_ms * 1000,
                record.timestamp_ms * 1000,
                box.box_key,
                event.event_id,
                event.seq,
                gap,
                TYPE_NAMES[type(event)],
                is_late,
                _channel_of(event, box, is_late=is_late),
                box.last_channel_id,
                box.last_ad_id,
                shown.push_id if shown else None,
                shown.ad_id if shown else None,
                shown.shown_ms if shown else None,
                ad_break.break_id if ad_break else None,
                ad_break.starts_in_ms if ad_break else None,
                ad_break.duration_ms if ad_break else None,
                event.state if isinstance(event, Power) else None,
                self.key_group.partition,
                self.key_group.group,
                record.offset,
                0,  # A record is one event: its row is the only one it emits into box_events.
            )
        )

    def _emit_session(self, record: Record, box: Box, session: Session, out: ModelOutput) -> None:
        ordinal = self._session_ordinal
        self._session_ordinal += 1
        out.sessions.append(
            (
                session.start_ms * 1000,
                session.end_ms * 1000,
                box.box_key,
                identity.session_id(box.box_key, session.start_ms),
                session.end_ms - session.start_ms,
                session.events,
                session.tunes,
                session.ads_shown,
                session.first_channel_id,
                session.last_channel_id,
                self.key_group.partition,
                self.key_group.group,
                record.offset,
                ordinal,
            )
        )


def _channel_of(event: BoxEvent, box: Box, *, is_late: bool) -> str | None:
    """Channel of an event's row: a late tune keeps its own, because the box's state does not speak of that time."""
    if is_late and isinstance(event, Tune):
        return event.channel_id
    return box.channel_id
