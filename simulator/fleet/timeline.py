"""Two clocks: behaviour time, by which viewers act, and event time, by which boxes stamp their reports.

A speed-up of k lets k milliseconds of behaviour pass in one of event time. Event time stays the wall clock of the
emission, because the pipeline compares it with Kafka's.
"""

from __future__ import annotations

import math

import msgspec

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Timeline(msgspec.Struct, frozen=True):
    """A straight line through one point of both clocks."""

    behaviour_ms: int
    event_ms: int
    speed_up: float = 1.0

    @classmethod
    def starting(cls, event_ms: int, *, start_hour: float | None = None, speed_up: float = 1.0) -> Timeline:
        """Line that begins at `event_ms`, with viewers who live at `start_hour` (UTC); `None` takes the real hour.

        Raises:
            ValueError: `speed_up` is not positive or `start_hour` is not in [0, 24).
        """
        if speed_up <= 0:
            raise ValueError(f"speed_up is {speed_up}, it must be positive")
        if start_hour is None:
            return cls(event_ms, event_ms, speed_up)
        if not 0 <= start_hour < DAY_MS / HOUR_MS:
            raise ValueError(f"start_hour is {start_hour}, it must be in [0, 24)")
        midnight_ms = event_ms - event_ms % DAY_MS
        return cls(midnight_ms + int(start_hour * HOUR_MS), event_ms, speed_up)

    def to_event_ms(self, behaviour_ms: int) -> int:
        """Event time at which behaviour has come to `behaviour_ms`."""
        if self.speed_up == 1.0:
            return self.event_ms + behaviour_ms - self.behaviour_ms
        return self.event_ms + int((behaviour_ms - self.behaviour_ms) / self.speed_up)

    def to_behaviour_ms(self, event_ms: int) -> int:
        """How far behaviour has come at `event_ms`."""
        if self.speed_up == 1.0:
            return self.behaviour_ms + event_ms - self.event_ms
        # Rounded up, so that what has not happened by then gets no earlier event time.
        return self.behaviour_ms + math.ceil((event_ms - self.event_ms) * self.speed_up)

    def shrink(self, duration_ms: int) -> int:
        """How long a duration of behaviour lasts in event time."""
        return duration_ms if self.speed_up == 1.0 else int(duration_ms / self.speed_up)

    def slipped(self, by_ms: int) -> Timeline:
        """The same line after `by_ms` of event time in which behaviour stood still."""
        return Timeline(self.behaviour_ms, self.event_ms + by_ms, self.speed_up)
