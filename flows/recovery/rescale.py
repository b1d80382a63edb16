"""Share the recovery stores of flows out anew, offline: read and check, build, verify, replace.

It can be killed at any moment; the same command then takes it back or finishes it (`flows.recovery.swap`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from datastreamx.config import Config
from datastreamx.errors import ConfigError, CrashError, StateMismatchError
from datastreamx.place import Place
from flows.recovery.guard import check_store
from flows.recovery.inventory import FlowStores, Locks, all_stores
from flows.recovery.manifest import check_manifest, manifest_of, read_manifest, write_manifest
from flows.recovery.reshard import Mode, Store, Terms, account, places_with_store, reshard
from flows.recovery.steps import FLOWS, steps_of
from flows.recovery.swap import (
    OnStep,
    Swap,
    aside_name,
    disk_errors_told,
    finish,
    replacing,
    require_no_other,
    told,
    unfinished,
)
from flows.recovery.writer import write_store


class StoreLine(msgspec.Struct, frozen=True, kw_only=True):
    """One store.

    Attributes:
        store: Folder below `recovery.directory`.
        partitions: Kafka partitions whose state it holds.
        keys: Rows with a value.
        state_bytes: Size of these values.
    """

    flow: str
    store: str
    partitions: list[int]
    keys: int
    state_bytes: int


class RescaleReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, or would be.

    Attributes:
        state: `planned`: nothing was changed. `done`. `finished`: an interrupted run of the same command was.
            `nothing`: the stores are as wanted.
        mode: Wanted, as `scaling.mode`.
        cells: Wanted: cells, or processes of the cluster.
        before: Stores that were found.
        after: Stores that there are now, or would be.
        flows_without_store: Nothing of these lies below `recovery.directory`.
        set_aside: Folder with the old stores.
        handed_over: Folder in which the new ones wait to be taken over.
    """

    state: Literal["planned", "done", "finished", "nothing"]
    mode: Mode
    cells: int
    before: list[StoreLine] = []
    after: list[StoreLine] = []
    flows_without_store: list[str] = []
    set_aside: str | None = None
    handed_over: str | None = None


@dataclass(frozen=True)
class Rescale:
    """What is wanted.

    Attributes:
        cells: Cells, or processes of the cluster.
        flows: Which flows; empty: all that have a store.
        dry_run: Only read and check.
    """

    config: Config
    mode: Mode
    cells: int
    flows: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def directory(self) -> Path:
        """Where all stores lie."""
        return Path(self.config.recovery.directory)

    @property
    def places(self) -> tuple[Place, ...]:
        """New places that keep a store."""
        return places_with_store(self.mode, self.cells)

    @property
    def terms(self) -> Terms:
        """For the re-shard."""
        return Terms(self.config.events.partitions, self.config.topics.decisions)

    @property
    def command(self) -> str:
        """How to ask for it."""
        mode = ["--mode cluster"] if self.mode == "cluster" else []
        return " ".join(["datastreamx rescale", f"--cells {self.cells}", *mode, *(f"--flow {f}" for f in self.flows)])


@dataclass(frozen=True)
class _Plan:
    """Stores of one flow as they are, and as they will be."""

    found: FlowStores
    old: tuple[Store, ...]
    new: tuple[Store, ...]

    @property
    def flow(self) -> str:
        return self.found.flow

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(store.place.store_name(self.flow) for store in self.new)


def rescale(wanted: Rescale, now: datetime, on_step: OnStep = lambda _: None) -> RescaleReport:
    """Do it. Call it in the main thread.

    Args:
        wanted: What.
        now: UTC; names the folder for the old stores.
        on_step: Told of every step that is done.

    Raises:
        ConfigError: There are not that many partitions.
        StateMismatchError: A store is missing, damaged, of another configuration, or is being restored.
        CrashError: A process is using a store; or the new ones cannot be written, or are not what they should be.
            Nothing was changed.
    """
    require_cells(wanted)
    directory = wanted.directory
    require_no_other(directory, "rescale")
    with disk_errors_told(directory), Locks(directory) as locks:
        # Against a second command of this kind, before anything is looked at.
        locks.take(["rescale"])
        begun = unfinished(directory, "rescale")
        if begun is not None:
            if wanted.dry_run:
                raise StateMismatchError(told(directory, begun))
            locks.take((*begun.old, *begun.new))
            finish(directory, begun, on_step)
            if begun.is_complete:
                return _finished(wanted, begun)
        found = {flow: all_stores(directory, flow) for flow in wanted.flows or FLOWS}
        present = [stores for stores in found.values() if stores is not None]
        absent = [flow for flow, stores in found.items() if stores is None]
        if absent and (wanted.flows or not present):
            raise StateMismatchError(
                f"{directory} holds no recovery store of {', '.join(absent)}: nothing to share out"
            )
        for stores in present:
            locks.take(stores.names)
            locks.take(place.store_name(stores.flow) for place in wanted.places)
        plans = [_plan(wanted, stores) for stores in present]
        report = RescaleReport(
            state="planned",
            mode=wanted.mode,
            cells=wanted.cells,
            before=[line for plan in plans for line in _lines(wanted, plan.flow, plan.old)],
            after=[line for plan in plans for line in _lines(wanted, plan.flow, plan.new)],
            flows_without_store=absent,
        )
        due = [plan for plan in plans if plan.found.places != wanted.places]
        if not due:
            return msgspec.structs.replace(report, state="nothing")
        if wanted.dry_run:
            return report
        swap = _replace(wanted, due, now, on_step)
        return msgspec.structs.replace(report, state="done", set_aside=str(directory / swap.aside))


def require_cells(wanted: Rescale) -> None:
    """Check that there are partitions for all cells.

    Raises:
        ConfigError: There are not.
    """
    partitions = wanted.config.events.partitions
    if not 1 <= wanted.cells <= partitions:
        raise ConfigError("--cells", [f"it is {wanted.cells}, and has to be 1 to events.partitions ({partitions})"])


def _finished(wanted: Rescale, begun: Swap) -> RescaleReport:
    if begun.command != wanted.command:
        raise StateMismatchError(
            f"an earlier `{begun.command}` had been interrupted and has just been finished: the stores are as it "
            "wanted them. Write that into the configuration, or rescale once more"
        )
    found = [stores for flow in wanted.flows or FLOWS if (stores := all_stores(wanted.directory, flow)) is not None]
    return RescaleReport(
        state="finished",
        mode=wanted.mode,
        cells=wanted.cells,
        after=[line for stores in found for line in _lines(wanted, stores.flow, _read(wanted, stores))],
        set_aside=str(wanted.directory / begun.aside),
    )


def _plan(wanted: Rescale, found: FlowStores) -> _Plan:
    old = _read(wanted, found)
    new = tuple(map(Store, wanted.places, reshard(old, wanted.places, wanted.terms)))
    return _Plan(found, old, new)


def _read(wanted: Rescale, found: FlowStores) -> tuple[Store, ...]:
    """Read stores and check each as a start of its flow would."""
    return tuple(
        _read_one(wanted, found.flow, wanted.directory / name, place)
        for name, place in zip(found.names, found.places, strict=True)
    )


def _read_one(wanted: Rescale, flow: str, directory: Path, place: Place) -> Store:
    check_manifest(directory, read_manifest(directory), manifest_of(flow, wanted.config, place))
    contents = check_store(directory, steps_of(flow, wanted.config, place))
    return Store(place, {key: row.value for key, row in contents.by_key.items() if not row.is_discarded})


def _lines(wanted: Rescale, flow: str, stores: Iterable[Store]) -> list[StoreLine]:
    return [
        StoreLine(
            flow=flow,
            store=store.place.store_name(flow),
            partitions=[*store.place.partitions(wanted.config.events.partitions)],
            keys=sum(value is not None for value in store.rows.values()),
            state_bytes=sum(len(value) for value in store.rows.values() if value is not None),
        )
        for store in stores
    ]


def _replace(wanted: Rescale, plans: Sequence[_Plan], now: datetime, on_step: OnStep) -> Swap:
    directory = wanted.directory
    swap = Swap(
        kind="rescale",
        command=wanted.command,
        aside=aside_name(directory, "rescale", now),
        old=tuple(name for plan in plans for name in plan.found.names),
        new=tuple(name for plan in plans for name in plan.names),
    )
    with replacing(directory, swap, on_step) as place:
        _build(wanted, plans, place, on_step)
    return swap


def _build(wanted: Rescale, plans: Sequence[_Plan], place: Path, on_step: OnStep) -> None:
    for plan in plans:
        for name, store in zip(plan.names, plan.new, strict=True):
            rows = {key: value for key, value in store.rows.items() if value is not None}
            write_store(place / name, plan.flow, rows)
            write_manifest(place / name, manifest_of(plan.flow, wanted.config, store.place))
            on_step(f"built {name}")
    for plan in plans:
        _verify(wanted, plan, place)
    on_step("verified")


def _verify(wanted: Rescale, plan: _Plan, place: Path) -> None:
    """Read back what was written: it must be what was planned, and together what there was before."""
    written = [
        _read_one(wanted, plan.flow, place / name, store.place)
        for name, store in zip(plan.names, plan.new, strict=True)
    ]
    different = [name for name, one, other in zip(plan.names, written, plan.new, strict=True) if one != other]
    if different or account(written, wanted.terms) != account(plan.old, wanted.terms):
        raise CrashError(
            f"the new stores of the flow {plan.flow} would not hold what the old ones do "
            f"({', '.join(different) or 'the sums'} differ). Nothing was changed. This is a fault of the program"
        )
