"""A stateful step, as far as its rows in a recovery store go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from datastreamx.config import Config
from datastreamx.model.keygroup import KeyGroup
from datastreamx.place import Place
from datastreamx.snapshots import check_versioned
from sinks.dead_letter.sink import PART
from sources.kafka import positions


@dataclass(frozen=True)
class Step:
    """A step whose rows are in the store.

    Attributes:
        step_id: As in the flow.
        keys: Those that it may have at a place.
        version: Of its snapshots; 0 for a sink without state, whose values are `None`.
        look: Checks seal and version of a value and gives the key that the value itself tells, `None` if it tells none.
            Raises StateMismatchError. Unset for a sink without state.
        is_source: It has a row of every key in every epoch.
    """

    step_id: str
    keys: frozenset[str]
    version: int = 0
    look: Callable[[bytes], str | None] | None = None
    is_source: bool = False


def source(step_id: str, readers: dict[str, positions.Layout]) -> Step:
    """A source with these readers. Whose positions they are, they tell by their layout."""

    def look(value: bytes) -> str | None:
        found = positions.read_positions(value).layout
        return next((name for name, layout in readers.items() if layout == found), str(found))

    return Step(step_id, frozenset(readers), positions.VERSION, look, is_source=True)


def versioned(step_id: str, keys: frozenset[str], version: int) -> Step:
    """A step whose values do not tell their key."""

    def look(value: bytes) -> None:
        check_versioned(value, version, step_id)

    return Step(step_id, keys, version, look)


def stateless(step_id: str, part: str) -> Step:
    """A sink without state."""
    return Step(step_id, frozenset({part}))


def dead_letters(step_id: str) -> Step:
    """A dead letter sink."""
    return stateless(step_id, PART)


def groups(config: Config, place: Place) -> frozenset[str]:
    """Keys of the key groups at a place."""
    return frozenset(
        KeyGroup(partition, group).key
        for partition in place.partitions(config.events.partitions)
        for group in range(config.events.groups_per_partition)
    )
