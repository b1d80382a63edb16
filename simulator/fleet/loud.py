"""One box that sends far more than all others: the key group that holds it gets a large share of all events."""

from __future__ import annotations

from collections.abc import Iterator

from datastreamx.model.events import BoxEvent, Heartbeat, Tune

BOX_ID = "stb-loud"

_TUNES_EVERY = 10
_CHANNELS = 5


class LoudBox:
    """Sends a certain share of all events, heartbeats most of them. Pure.

    Args:
        share: Of all events, its own included; in [0, 1).
        first_seq: Number before that of its first event.

    Raises:
        ValueError: The share is out of bounds.
    """

    def __init__(self, share: float, first_seq: int = 0) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"the loud box's share is {share}, it must be in [0, 1)")
        self._per_event = share / (1 - share)
        self._seq = first_seq
        self._owed = 0.0

    def after(self, event: BoxEvent) -> Iterator[BoxEvent]:
        """Events that follow one of another box, stamped alike."""
        self._owed += self._per_event
        while self._owed >= 1:
            self._owed -= 1
            self._seq += 1
            seq, event_id, at_ms = self._seq, f"{BOX_ID}-{self._seq}", event.event_time_ms
            if seq % _TUNES_EVERY:
                yield Heartbeat(event_id=event_id, box_id=BOX_ID, seq=seq, event_time_ms=at_ms)
            else:
                channel_id = f"ch{1 + seq // _TUNES_EVERY % _CHANNELS:02d}"
                yield Tune(event_id=event_id, box_id=BOX_ID, seq=seq, event_time_ms=at_ms, channel_id=channel_id)
