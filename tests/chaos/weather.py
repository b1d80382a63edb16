"""Faults that come, stay for a while and go by themselves, whatever else happens meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.journal import Journal


@dataclass(frozen=True)
class Spell:
    """Something that ends at a certain time.

    Attributes:
        about: What it spoils; there is one spell at a time about each.
    """

    about: str
    what: str
    ends_s: float
    end: Callable[[], None]


class Weather:
    """All that is in force."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._spells: dict[str, Spell] = {}

    def is_calm(self, about: str) -> bool:
        """Whether nothing spoils it."""
        return about not in self._spells

    def begin(self, about: str, what: str, seconds: float, end: Callable[[], None]) -> None:
        """Something is in force from now on; `end` ends it. What was about the same ends at once."""
        self.end(about)
        self._spells[about] = Spell(about, what, time.monotonic() + seconds, end)

    def tend(self) -> None:
        """End what is due."""
        for spell in [*self._spells.values()]:
            if time.monotonic() >= spell.ends_s:
                self.end(spell.about)

    def clear(self) -> None:
        """End everything."""
        for about in [*self._spells]:
            self.end(about)

    def end(self, about: str) -> None:
        """End what spoils it, if anything does."""
        spell = self._spells.pop(about, None)
        if spell is not None:
            spell.end()
            self._journal.note("over", spell.about, spell.what)
