"""What a story has found."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tests.k8s.podlet.campaign.measures import Log

PROMISES = {
    "ends_cleanly": "a pod that is asked to end does so with code 0",
    "repeats_nothing": "after clean stops nothing is written twice",
    "comes_back": "the cell that was struck goes on with its partitions",
    "others_go_on": "no other pod ends, and other cells go on writing",
    "one_at_a_time": "of each flow at most one pod is away",
    "canary_first": "with a partition only the cells from it on are replaced",
    "state_moves": "every process leaves its state, the Job shares it out, every new process takes its part",
    "rebuilt": "a lost volume of an ads cell is built anew by replay",
}
"""What stories look at while they go on; what is left in the end is judged by `tests.chaos.verdict`."""


class Story(msgspec.Struct):
    """One story.

    Attributes:
        broken: What was against a promise, in words, by promise; only promises that the story looked at are there.
        figures: What was measured.
    """

    name: str
    broken: dict[str, list[str]] = msgspec.field(default_factory=dict)
    figures: dict[str, object] = msgspec.field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return not any(self.broken.values())

    def check(self, promise: str, found: Iterable[str]) -> None:
        """Look at a promise: nothing found means that it was kept."""
        if promise not in PROMISES:
            raise KeyError(promise)
        self.broken[promise] = [*self.broken.get(promise, []), *found]

    def check_repeats(self, before: Log, after: Log) -> None:
        """Look at what was written twice since `before`, with nothing but clean stops in between."""
        repeats = after.repeats() - before.repeats()
        self.check("repeats_nothing", (f"{count} {what} more than once" for what, count in repeats.items()))
        self.figures["records written twice"] = repeats.total()
