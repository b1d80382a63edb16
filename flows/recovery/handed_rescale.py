"""A re-shard of stores that no machine reaches together: of what stopped cells have left, for new ones to take over.

The copies are brought together in a folder of this machine, shared out there (`flows.recovery.rescale`), and handed
over as a whole: `shares.json`, which is written last, names the new stores. Killed before, nothing has changed; killed
after, the same command clears up.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import msgspec

from datastreamx.config import Config
from datastreamx.errors import ConfigError, StaleStoreError, StateMismatchError
from flows.recovery.backup import BackupRecord, StoreRecord, copy_held, put_back
from flows.recovery.handover import Copy, Handover, Shares, put, remove, told
from flows.recovery.inventory import Locks
from flows.recovery.rescale import Rescale, RescaleReport, require_cells, rescale
from flows.recovery.reshard import Mode, places_with_store
from flows.recovery.restore import AskAge, ask_broker, positions_in
from flows.recovery.steps import FLOWS
from flows.recovery.swap import OnStep
from sources.kafka.positions import merge

SCRATCH = ".handed-over"
"""Below `recovery.directory`, which needs room for three copies of a flow's stores."""


@dataclass(frozen=True)
class _Due:
    """State of a flow that has to be shared out.

    Attributes:
        copies: The newest copy of each store, in the order of their places.
    """

    handover: Handover
    shares: Shares | None
    copies: tuple[Copy, ...]

    @property
    def flow(self) -> str:
        return self.handover.flow


def rescale_handed_over(
    wanted: Rescale, now: datetime, on_step: OnStep = lambda _: None, *, ask: AskAge | None = None
) -> RescaleReport:
    """Do it. Call it in the main thread; all processes of the flows are stopped, and stay so until it ends.

    Args:
        wanted: What. Below its `recovery.directory` this only takes room for a while.
        now: UTC.
        on_step: Told of every step that is done.
        ask: Instead of `ask_broker`.

    Raises:
        ConfigError: `recovery.handover` is not set, or there are not that many partitions.
        StateMismatchError: A store was not left, is damaged, or is not the newest.
        CrashError: Something cannot be read or written.
        RetryableError: Kafka does not answer.
    """
    require_cells(wanted)
    root = wanted.config.recovery.handover
    if root is None:
        raise ConfigError("--handed-over", ["recovery.handover is not set: there is no folder to share out from"])
    due: list[_Due] = []
    done: dict[str, bool] = {}
    absent: list[str] = []
    with told(f"what was handed over in {root} cannot be shared out"), Locks(wanted.directory) as locks:
        locks.take(["rescale"])
        for flow in wanted.flows or FLOWS:
            handover = Handover(Path(root), flow)
            shares, left = handover.shares(), handover.left()
            shape = _shape(handover, shares, left)
            if shape is None:
                absent.append(flow)
            elif shape == (wanted.mode, wanted.cells):
                done[flow] = _clear_up(handover, shares, left, dry_run=wanted.dry_run)
            else:
                due.append(_Due(handover, shares, _newest(handover, shares, left, shape)))
        if absent and (wanted.flows or not (due or done)):
            raise StateMismatchError(f"{root} holds no state of {', '.join(absent)}: nothing to share out")
        reports = [_share_out(wanted, one, now, on_step, ask or ask_broker) for one in due]
    made = [line for report in reports for line in report.after]
    planned = wanted.dry_run and bool(due)
    return RescaleReport(
        state="planned" if planned else "done" if due else "finished" if any(done.values()) else "nothing",
        mode=wanted.mode,
        cells=wanted.cells,
        before=[line for report in reports for line in report.before],
        after=made,
        flows_without_store=absent,
        handed_over=None if planned or not due else root,
    )


def _shape(handover: Handover, shares: Shares | None, left: Mapping[str, Copy]) -> tuple[Mode, int] | None:
    """How the state of a flow is shared out; `None`: there is none."""
    if shares is not None:
        return shares.mode, shares.cells
    shapes = {(copy.record.mode, copy.record.cells) for copy in left.values()}
    if len(shapes) > 1:
        found = ", ".join(f"{store} of {one.record.mode} {one.record.cells}" for store, one in left.items())
        raise StateMismatchError(
            f"what was left in {handover.folder} does not belong together: {found}. Move away what is left over from "
            "earlier"
        )
    return next(iter(shapes), None)


def _clear_up(handover: Handover, shares: Shares | None, left: Mapping[str, Copy], *, dry_run: bool) -> bool:
    """Remove what an interrupted run of this command has used; whether there was anything."""
    used = [store for store, copy in left.items() if shares is not None and copy.id in shares.made_from]
    if not dry_run:
        for store in used:
            remove(handover.slot(store))
    return bool(used)


def _newest(
    handover: Handover, shares: Shares | None, left: Mapping[str, Copy], shape: tuple[Mode, int]
) -> tuple[Copy, ...]:
    """The copy of each store: what its process has left, or, if it was never started, what an earlier re-shard made.

    Raises:
        StateMismatchError: A store has neither.
    """
    handed, used = handover.handed(shares), () if shares is None else shares.made_from
    found: list[Copy] = []
    missing: list[str] = []
    for place in places_with_store(*shape):
        name = place.store_name(handover.flow)
        copy = left.get(name)
        if copy is None or copy.record.place != place or copy.id in used:
            copy = handed.get(name)
        if copy is None:
            missing.append(name)
        else:
            found.append(copy)
    if missing:
        mode, cells = shape
        raise StateMismatchError(
            f"{handover.folder} lacks {', '.join(missing)}, of {cells} {mode} of the flow {handover.flow}: a process "
            "leaves its store when it has stopped cleanly (exit code 0, log event handover.left), and withdraws it "
            "when it is started. Start the flow with its old number once more, stop all of it, and wait until it has "
            "ended"
        )
    return tuple(found)


def _share_out(wanted: Rescale, due: _Due, now: datetime, on_step: OnStep, ask: AskAge) -> RescaleReport:
    scratch = wanted.directory / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        stores, drafts = scratch / "recovery", scratch / "drafts"
        for folder in (stores, drafts):
            folder.mkdir(mode=0o700, parents=True)
        here = _in_folder(wanted, stores, due.flow)
        _bring_together(here.config, due, stores, on_step, ask)
        report = rescale(here, now, on_step)
        if not wanted.dry_run:
            record = BackupRecord(taken_at=now, stores=_drafted(wanted, due.flow, stores, drafts))
            _hand_over(wanted, due, record, drafts, on_step)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return report


def _in_folder(wanted: Rescale, directory: Path, flow: str) -> Rescale:
    """The same of one flow, whose stores lie in another folder."""
    recovery = msgspec.structs.replace(wanted.config.recovery, directory=str(directory))
    return replace(wanted, config=msgspec.structs.replace(wanted.config, recovery=recovery), flows=(flow,))


def _bring_together(config: Config, due: _Due, stores: Path, on_step: OnStep, ask: AskAge) -> None:
    parts = []
    for copy in due.copies:
        contents = put_back(config, copy.folder, copy.record, stores / copy.record.store)
        parts += positions_in(contents, due.flow)
        on_step(f"fetched {copy.record.store}")
    problem = ask(config, due.flow, merge(parts)) if parts else None
    if problem is not None:
        raise StaleStoreError(
            f"what was left in {due.handover.folder} is not the state that the flow {due.flow} used last: {problem}. "
            "Start it with its old number once more, stop all of it, and wait until it has ended"
        )
    on_step("current")


def _drafted(wanted: Rescale, flow: str, stores: Path, drafts: Path) -> tuple[StoreRecord, ...]:
    names = [place.store_name(flow) for place in wanted.places]
    return tuple(copy_held(wanted.config, flow, stores / name, drafts / name) for name in names)


def _hand_over(wanted: Rescale, due: _Due, record: BackupRecord, drafts: Path, on_step: OnStep) -> None:
    handover, at = due.handover, record.taken_at
    name = f"{at:%Y%m%dT%H%M%SZ}-{wanted.mode}-{wanted.cells}"
    put(handover.made(name), drafts, record, on_step)
    _require_unchanged(due)
    shares = Shares(
        at=at, mode=wanted.mode, cells=wanted.cells, made=name, made_from=tuple(copy.id for copy in due.copies)
    )
    handover.share_out(shares)
    on_step(f"handed over {due.flow}")
    for store in handover.left():
        remove(handover.slot(store))
    on_step("cleared up")


def _require_unchanged(due: _Due) -> None:
    """A process that was started meanwhile has withdrawn what it had left, and goes on by itself."""
    left, handed = due.handover.left(), due.handover.handed(due.shares)
    for copy in due.copies:
        store = copy.record.store
        if copy not in (left.get(store), handed.get(store)):
            raise StateMismatchError(
                f"{store} of the flow {due.flow} was started, or left anew, while its state was being shared out. "
                "Nothing was changed. Stop all processes of the flow, and run this again"
            )
