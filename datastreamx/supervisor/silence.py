"""Whether a worker that says nothing hangs. Pure."""

from __future__ import annotations

from datastreamx.pulse import Phase
from datastreamx.supervisor.limits import Limits


class Silence:
    """Seconds without a report, as far as the supervisor itself was there to hear one.

    A machine that stood still (a paused container, a suspended host) stops both processes, and nobody is to blame when
    it goes on: of a pause between two looks only two ticks count.
    """

    def __init__(self, limits: Limits, now_s: float) -> None:
        self._limits = limits
        self._looked_s = now_s
        self.seconds = 0.0

    def heard(self) -> None:
        """A report has come."""
        self.seconds = 0.0

    def look(self, now_s: float) -> None:
        """The supervisor has looked for reports."""
        self.seconds += min(now_s - self._looked_s, 2 * self._limits.tick_s)
        self._looked_s = now_s

    def is_hang(self, phase: Phase) -> bool:
        """Whether it has lasted too long. Not for a worker that was asked to end: its grace bounds that."""
        return self.seconds > patience_s(self._limits, phase)


def patience_s(limits: Limits, phase: Phase) -> float:
    """Seconds that a worker in `phase` may be silent."""
    return limits.running_silence_s if phase == "running" else limits.starting_silence_s
