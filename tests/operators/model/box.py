"""State of one box, and how one event changes it. Everything here is commutative within the allowed lateness.

Two reports are compared by (event time, seq), so the order of arrival does not matter: the channel is the latest tune,
the last channel the latest tune to any other channel, the last ad the latest display.
"""

from __future__ import annotations

import msgspec

from datastreamx.model.events import Consent

SEQ_WINDOW = 64
"""How many sequence numbers up to the highest one are remembered, to tell a duplicate from a late arrival."""
_SEQ_MASK = (1 << SEQ_WINDOW) - 1

NEVER_MS = -1


class Session(msgspec.Struct, array_like=True, gc=False):
    """One open session window of a box; all times are event time."""

    start_ms: int
    end_ms: int
    events: int = 0
    tunes: int = 0
    ads_shown: int = 0
    first_tune_ms: int = NEVER_MS
    first_tune_seq: int = 0
    first_channel_id: str | None = None
    last_tune_ms: int = NEVER_MS
    last_tune_seq: int = 0
    last_channel_id: str | None = None

    def note_tune(self, event_time_ms: int, seq: int, channel_id: str) -> None:
        """Count a tune and keep the first and the last one."""
        self.tunes += 1
        stamp = (event_time_ms, seq)
        if self.first_channel_id is None or stamp < (self.first_tune_ms, self.first_tune_seq):
            self.first_tune_ms, self.first_tune_seq, self.first_channel_id = event_time_ms, seq, channel_id
        if self.last_channel_id is None or stamp > (self.last_tune_ms, self.last_tune_seq):
            self.last_tune_ms, self.last_tune_seq, self.last_channel_id = event_time_ms, seq, channel_id

    def absorb(self, other: Session) -> None:
        """Merge a neighbour that an event in between has joined to this session."""
        self.start_ms = min(self.start_ms, other.start_ms)
        self.end_ms = max(self.end_ms, other.end_ms)
        self.events += other.events
        self.ads_shown += other.ads_shown
        tunes = self.tunes + other.tunes
        for stamp_ms, seq, channel_id in (
            (other.first_tune_ms, other.first_tune_seq, other.first_channel_id),
            (other.last_tune_ms, other.last_tune_seq, other.last_channel_id),
        ):
            if channel_id is not None:
                self.note_tune(stamp_ms, seq, channel_id)
        self.tunes = tunes


class Box(msgspec.Struct, array_like=True, gc=False):
    """State of one box. Stamps are (event time in ms, seq) of the report that set the value next to them.

    Attributes:
        box_key: Pseudonym, computed once.
        seen: Bit k is set when seq `last_seq - k` was seen.
        tune_offset: Kafka offset of the current tune, as long as it has not become an opportunity nor been passed over.
        tune_consent: What the viewer allowed with that tune.
        last_opportunity_ms: Event time of the latest opportunity.
        housekeeping_ms: When the box's one housekeeping timer is due; it may be early, never too late.
        sessions: Open sessions, by start; mostly one, two while an older one may still receive events.
    """

    box_key: str
    last_seq: int
    last_event_ms: int
    seen: int = 1
    channel_ms: int = NEVER_MS
    channel_seq: int = 0
    channel_id: str | None = None
    last_channel_ms: int = NEVER_MS
    last_channel_seq: int = 0
    last_channel_id: str | None = None
    last_ad_ms: int = NEVER_MS
    last_ad_seq: int = 0
    last_ad_id: str | None = None
    power_ms: int = NEVER_MS
    power_seq: int = 0
    standby: bool = False
    tune_offset: int | None = None
    tune_consent: Consent | None = None
    last_opportunity_ms: int = NEVER_MS
    housekeeping_ms: int = NEVER_MS
    sessions: list[Session] = msgspec.field(default_factory=list)

    def tune(self, event_time_ms: int, seq: int, channel_id: str) -> bool:
        """Take a tune into account; returns whether it is now the current channel's."""
        stamp = (event_time_ms, seq)
        if self.channel_id is None or stamp > (self.channel_ms, self.channel_seq):
            if self.channel_id is not None and self.channel_id != channel_id:
                self.last_channel_ms, self.last_channel_seq = self.channel_ms, self.channel_seq
                self.last_channel_id = self.channel_id
            self.channel_ms, self.channel_seq, self.channel_id = event_time_ms, seq, channel_id
            return True
        if channel_id != self.channel_id and (
            self.last_channel_id is None or stamp > (self.last_channel_ms, self.last_channel_seq)
        ):
            self.last_channel_ms, self.last_channel_seq, self.last_channel_id = event_time_ms, seq, channel_id
        return False

    def show_ad(self, event_time_ms: int, seq: int, ad_id: str) -> None:
        """Take a displayed ad into account."""
        if self.last_ad_id is None or (event_time_ms, seq) > (self.last_ad_ms, self.last_ad_seq):
            self.last_ad_ms, self.last_ad_seq, self.last_ad_id = event_time_ms, seq, ad_id

    def power(self, event_time_ms: int, seq: int, *, standby: bool) -> None:
        """Take switching on or into standby into account."""
        if (event_time_ms, seq) > (self.power_ms, self.power_seq):
            self.power_ms, self.power_seq, self.standby = event_time_ms, seq, standby

    def note_seq(self, seq: int, event_time_ms: int) -> int | None:
        """Record a sequence number.

        Returns:
            How many numbers are missing right before it, or `None` for a duplicate.

        A number seen before, or one below the window, is a duplicate unless its event is newer than everything the box
        ever sent: then the box has begun to count anew. A true duplicate cannot be newer than its original.
        """
        ahead = seq - self.last_seq
        if ahead > 0:
            self.seen = ((self.seen << ahead) | 1) & _SEQ_MASK if ahead < SEQ_WINDOW else 1
            self.last_seq = seq
            return ahead - 1
        if -ahead < SEQ_WINDOW and not self.seen >> -ahead & 1:
            self.seen |= 1 << -ahead
            return 0
        if event_time_ms > self.last_event_ms:
            self.last_seq, self.seen = seq, 1
            return 0
        return None

    def session_at(self, event_time_ms: int, gap_ms: int) -> Session:
        """Session window that an event belongs to: extended, newly opened, or merged from two that it joins."""
        touching = [s for s in self.sessions if s.start_ms - gap_ms <= event_time_ms <= s.end_ms + gap_ms]
        if not touching:
            session = Session(event_time_ms, event_time_ms)
            self.sessions.append(session)
            if len(self.sessions) > 1:
                self.sessions.sort(key=lambda s: s.start_ms)
            return session
        session = touching[0]
        for other in touching[1:]:
            session.absorb(other)
            self.sessions.remove(other)
        session.start_ms = min(session.start_ms, event_time_ms)
        session.end_ms = max(session.end_ms, event_time_ms)
        return session
