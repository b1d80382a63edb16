"""The timeline of a campaign: told as it happens, and kept."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened.

    Attributes:
        at_s: Seconds since the start of the campaign.
        what: A kind of fault, or `round`, `ended`, `settled` and the like.
        where: What it struck.
        met: What was going on there.
    """

    at_s: float
    what: str
    where: str = ""
    met: str = ""

    def __str__(self) -> str:
        where = f" {self.where}" if self.where else ""
        return f"{self.at_s:7.1f} s  {self.what}{where}{f': {self.met}' if self.met else ''}"


class Journal:
    """Entries in the order in which they happened.

    Args:
        tell: Called with each.
    """

    def __init__(self, tell: Callable[[Entry], None] = lambda _entry: None) -> None:
        self.entries: list[Entry] = []
        self._tell = tell
        self._begin_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Since the start."""
        return time.monotonic() - self._begin_s

    def note(self, what: str, where: str = "", met: str = "") -> None:
        """Something happened just now."""
        entry = Entry(round(self.elapsed_s, 1), what, where, met)
        self.entries.append(entry)
        self._tell(entry)
