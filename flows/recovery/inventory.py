"""Which recovery stores lie below a directory, and whether those of a flow are all there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from datastreamx.errors import StateMismatchError
from datastreamx.place import Place
from flows.recovery.lock import locked
from flows.recovery.manifest import read_manifest
from flows.recovery.quarantine import require_no_refusal
from flows.recovery.reshard import Mode, places_with_store


@dataclass(frozen=True)
class FlowStores:
    """The stores of one flow on this machine.

    Attributes:
        places: Those that keep a store.
        names: Their folders, in the same order.
    """

    flow: str
    places: tuple[Place, ...]
    names: tuple[str, ...]


def store_names(directory: Path, flow: str) -> list[str]:
    """Folders of the flow's stores; neither what was set aside, nor empty ones, in which a start makes a store."""
    pattern = re.compile(rf"{flow}-(\d+|cluster)")
    found = (path for path in directory.glob(f"{flow}-*") if pattern.fullmatch(path.name) and path.is_dir())
    return sorted(path.name for path in found if any(path.iterdir()))


def all_stores(directory: Path, flow: str) -> FlowStores | None:
    """All stores of a flow, which have to be on this machine; `None` if there is none.

    Raises:
        StateMismatchError: One is missing, was refused, or is of other times.
    """
    for path in sorted(directory.glob(f"{flow}-*.refused.json")):
        require_no_refusal(directory / path.name.removesuffix(".refused.json"))
    names = {*store_names(directory, flow)}
    if not names:
        return None
    mode, cells = _shape(directory, flow, names)
    places = places_with_store(mode, cells)
    expected = {place.store_name(flow) for place in places}
    if expected - names:
        raise StateMismatchError(
            f"{directory} lacks {_listed(expected - names)}, of {cells} cells of the flow {flow}: bring the stores of "
            "all cells together here, each from its machine or from a backup"
        )
    if names - expected:
        raise StateMismatchError(
            f"{directory} holds {_listed(names - expected)}, which the flow {flow} of {mode} {cells} does not have: "
            "move away what is left over"
        )
    return FlowStores(flow, places, tuple(place.store_name(flow) for place in places))


def _shape(directory: Path, flow: str, names: Iterable[str]) -> tuple[Mode, int]:
    shapes = {name: (made.mode, made.cells) for name in sorted(names) for made in [read_manifest(directory / name)]}
    if len({*shapes.values()}) > 1:
        told = ", ".join(f"{name} of {mode} {cells}" for name, (mode, cells) in shapes.items())
        raise StateMismatchError(
            f"the stores of the flow {flow} below {directory} do not belong together: {told}. Move away those that are "
            "left over from earlier"
        )
    return next(iter(shapes.values()))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


class Locks(ExitStack):
    """Locks of stores below a directory, held until the context ends; each is taken once."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._taken: set[str] = set()

    def take(self, names: Iterable[str]) -> None:
        """Take those that are not held yet.

        Raises:
            CrashError: A process is using one.
        """
        for name in sorted({*names} - self._taken):
            self.enter_context(locked(self._directory / name))
            self._taken.add(name)
