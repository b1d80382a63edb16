"""How large a history is. Most are small, for most bugs show in the company of one fault or two; a few have room."""

from __future__ import annotations

from random import Random

EVENTS_MIN = 8
EVENTS_MAX = 240
_SHAPE = 1.3
_ROOMY = 60
"""From this many events on a history has room for everything, as early or late as it likes."""

CLASSES = {
    "histories of fewer than 10 events": range(10),
    "histories of 10 to 29 events": range(10, 30),
    "histories of 30 to 89 events": range(30, 90),
    "histories of 90 events or more": range(90, EVENTS_MAX + 1),
}
"""What kind of size it is, for `coverage`."""


def draw_events(random: Random) -> int:
    """How many events boxes send of themselves, by Pareto's law: half of the draws are below 14, 4 % are 90 or more."""
    return min(EVENTS_MAX, int(EVENTS_MIN * random.paretovariate(_SHAPE)))


def class_of(events: int) -> str:
    """One of `CLASSES`."""
    return next(name for name, sizes in CLASSES.items() if events in sizes)


def scaled(value: int, events: int) -> int:
    """A duration of a history with room, for one of any size: a third of it in the smallest."""
    return value * (3 * min(events, _ROOMY) + _ROOMY) // (4 * _ROOMY)
