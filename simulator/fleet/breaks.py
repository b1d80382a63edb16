"""When each channel goes into an ad break: the same for all boxes, and known for all time from the seed."""

from __future__ import annotations

from typing import NamedTuple

from simulator.fleet.draws import draw, stream_seed, uniform
from simulator.fleet.parameters import Behaviour


class Break(NamedTuple):
    """One ad break of one channel, in behaviour time."""

    number: int
    start_ms: int
    duration_ms: int


class BreakSchedule:
    """Breaks of all channels; break i of a channel lies within a quarter of its period around i periods."""

    def __init__(self, seed: int, behaviour: Behaviour) -> None:
        self._seed = stream_seed(seed, "breaks")
        self._durations = behaviour.break_durations_ms
        shortest, longest = behaviour.break_period_ms
        channels = range(behaviour.channels)
        self._periods = [shortest + int(uniform(self._seed, c, 0) * (longest - shortest + 1)) for c in channels]
        self._phases = [int(uniform(self._seed, c, 1) * self._periods[c]) for c in channels]

    def get(self, channel: int, number: int) -> Break:
        """Break `number` of `channel`."""
        period = self._periods[channel]
        bits = draw(self._seed, channel, 2, number)
        jitter = bits % (period // 2 + 1) - period // 4
        duration = self._durations[(bits >> 40) % len(self._durations)]
        return Break(number, self._phases[channel] + number * period + jitter, duration)

    def next_after(self, channel: int, at_ms: int) -> Break:
        """First break of `channel` that starts after `at_ms`."""
        period = self._periods[channel]
        number = (at_ms - self._phases[channel] - period // 4) // period
        while True:
            candidate = self.get(channel, number)
            if candidate.start_ms > at_ms:
                return candidate
            number += 1
