"""What happened to pods and when: gaps and recovery times are computed from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        at_s: `time.monotonic()` of this machine.
        pod: Name of the pod, e.g. `ads-0`; of a job or a set where it concerns no pod.
        what: `created`, `started`, `ready`, `unready`, `unhealthy` (a probe has failed often enough to end the
            container), `terminating`, `killed` (the grace period was over), `exited`, `oom_killed`, `back_off`,
            `failed`, `deleted`; `unlimited` (its memory limit cannot be enforced here); `signalled`, `frozen`,
            `thawed`, `cut`, `joined`, `lost`, `restored` by operations; `completed` by jobs; `rolled_out` by sets.
        detail: Container and exit code, signal, delay and the like.
    """

    at_s: float
    pod: str
    what: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.at_s:.3f} {self.pod} {self.what} {self.detail}".rstrip()


class EventLog:
    """All events in order; safe for use by several threads."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._changed = threading.Condition()

    def note(self, pod: str, what: str, detail: str = "") -> Event:
        """Append an event of this moment."""
        with self._changed:
            event = Event(time.monotonic(), pod, what, detail)
            self._events.append(event)
            self._changed.notify_all()
        return event

    def touch(self) -> None:
        """Let `wait` look again: something changed that is no event."""
        with self._changed:
            self._changed.notify_all()

    def of(self, pod: str | None = None, *what: str, since_s: float = 0.0) -> list[Event]:
        """Events of a pod (or of all), of some kinds (or of any), from a moment on."""
        with self._changed:
            return [
                event
                for event in self._events
                if event.at_s >= since_s and pod in {None, event.pod} and (not what or event.what in what)
            ]

    def wait(self, holds: Callable[[], bool], within_s: float) -> bool:
        """Block until something holds, looked at whenever something happens; false if it takes too long."""
        with self._changed:
            return self._changed.wait_for(holds, within_s)

    def __str__(self) -> str:
        return "\n".join(map(str, self.of()))
