"""The recovery store that a flow needs at its place, before it is started there.

Most often it is there. Else it is taken over from what was handed over for this place, or, for the ads flow, built anew
from Kafka if Kafka knows that the flow ran before. A store of the other flows cannot be built anew: the guard refuses
to start without it, and an operator decides.

Everything can be done again after a kill at any moment, and no copy is taken over twice: the folder of the handover,
the store itself and the witness in Kafka each tell of that.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from datastreamx.config import Config
from datastreamx.errors import StaleStoreError, StateMismatchError
from datastreamx.log import get_logger
from datastreamx.place import Place
from flows.recovery.backup import put_back
from flows.recovery.handover import Copy, Handover, Shares, forget, is_origin, told, write_mark, write_origin
from flows.recovery.inventory import Locks
from flows.recovery.manifest import read_manifest
from flows.recovery.opening import holds_nothing
from flows.recovery.quarantine import require_no_refusal
from flows.recovery.restore import GROUPS, AskAge, ask_broker, positions_in
from flows.recovery.swap import OnStep, Swap, aside_name, finish, replacing, require_no_other, unfinished
from flows.replaying.marker import Marker, read_marker
from flows.replaying.run import Summary
from flows.replaying.stores import ADS, Site
from sources.kafka.layouts import event_layouts, log_layouts
from sources.kafka.positions import merge
from sources.kafka.reader import PartitionReader

Outcome = Literal["nothing", "took_over", "rebuilt", "stopped"]

AskHistory = Callable[[Config, str, Place], bool]
"""Config, flow and place to whether the flow ever ran there, see `has_run`."""

_log = get_logger("prepare")


def has_run(config: Config, flow: str, place: Place) -> bool:
    """Whether the flow has committed an offset of a partition of `place`.

    Raises:
        RetryableError: No broker answered.
    """
    layouts = (event_layouts if flow == ADS else log_layouts)(config, place)
    for layout in layouts.values():
        reader = PartitionReader(config.kafka, layout, client_id="datastreamx-prepare", group=GROUPS[flow])
        try:
            if reader.evidence():
                return True
        finally:
            reader.close()
    return False


class PrepareReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was done.

    Attributes:
        outcome: `nothing`: there was nothing to do. `stopped`: by a signal, and the same command goes on.
        reason: Why, in words.
        store: Its folder.
        keys: Rows in a store that was taken over.
        taken_from: Where that lay.
        set_aside: Folder with what was there before.
        replay: How a store was rebuilt.
    """

    flow: str
    outcome: Outcome
    reason: str
    store: str
    keys: int | None = None
    taken_from: str | None = None
    set_aside: str | None = None
    replay: Summary | None = None


@dataclass(frozen=True)
class Prepare:
    """What is wanted.

    Attributes:
        flow: Whose store.
        place: Likewise.
        rebuild: Replays the ads flow's store from the beginning of the log.
        ask: Instead of `ask_broker`.
        has_run: Instead of the function of that name.
    """

    config: Config
    flow: str
    place: Place
    rebuild: Callable[[], Summary]
    ask: AskAge = ask_broker
    has_run: AskHistory = has_run

    @property
    def directory(self) -> Path:
        """Where all stores lie."""
        return Path(self.config.recovery.directory)

    @property
    def store(self) -> Path:
        """Folder of the store."""
        return self.directory / self.place.store_name(self.flow)

    @property
    def command(self) -> str:
        """How to ask for it."""
        return f"datastreamx prepare {self.flow} --ordinal {self.place.ordinal}"

    def report(self, outcome: Outcome, reason: str, **found: object) -> PrepareReport:
        """Of this store."""
        return PrepareReport(flow=self.flow, outcome=outcome, reason=reason, store=str(self.store), **found)  # type: ignore[arg-type]


def prepare(wanted: Prepare, now: datetime, on_step: OnStep = lambda _: None) -> PrepareReport:
    """Do it. Call it in the main thread.

    Args:
        wanted: What.
        now: UTC; names the folder for what is set aside.
        on_step: Told of every step that is done.

    Raises:
        StateMismatchError: The state of the flow is shared out to another number of cells, what was handed over is
            damaged or old, or the store of a flow that cannot be rebuilt was refused.
        CrashError: A process is using the store, or something cannot be read or written.
        RetryableError: Kafka does not answer.
    """
    if not wanted.place.keeps_store:
        return wanted.report("nothing", "the first process of the cluster keeps the store of all")
    handover = Handover.of(wanted.config, wanted.flow)
    with told(f"{wanted.store} cannot be prepared"):
        wanted.directory.mkdir(parents=True, exist_ok=True)
        require_no_other(wanted.directory, "prepare")
        with Locks(wanted.directory) as locks:
            run = _Run(wanted, locks, now, on_step)
            _finish_interrupted(run)
            locks.take([wanted.store.name])
            shares = None if handover is None else _require_shares(wanted, handover, now)
            taken = None if handover is None else _take_over(run, handover, shares)
            is_there = not holds_nothing(wanted.store)
            is_refused = _is_refused(wanted)
        if taken is not None:
            return taken
        if is_refused or not is_there or _is_half_installed(wanted):
            return _without_store(wanted, handover, now, is_refused=is_refused, is_known=shares is not None)
    return wanted.report("nothing", "the store is in its place")


@dataclass(frozen=True)
class _Run:
    """What is wanted, and what it takes to replace a store."""

    wanted: Prepare
    locks: Locks
    now: datetime
    on_step: OnStep


def _finish_interrupted(run: _Run) -> None:
    """Several flows and cells may share a directory, and whoever comes first finishes what another one has begun."""
    directory = run.wanted.directory
    if unfinished(directory, "prepare") is None:
        return
    run.locks.take(["prepare"])
    begun = unfinished(directory, "prepare")
    if begun is not None:
        run.locks.take((*begun.old, *begun.new))
        finish(directory, begun, run.on_step)


# How the state is shared out -----------------------------------------------------------------------------------------


def _require_shares(wanted: Prepare, handover: Handover, now: datetime) -> Shares | None:
    """How the state of the flow is shared out: as the configuration says, or nobody knows.

    A place whose volume is new cannot tell by itself whether it lost its store, or whether somebody has changed the
    number of cells and forgotten to re-shard. So it is taken down by the places that can.
    """
    place, shares = wanted.place, handover.shares()
    if shares is None:
        return _shared_out(wanted, handover, now) if _fits(wanted) else None
    if (shares.mode, shares.cells) != (place.mode, place.count):
        raise StateMismatchError(
            f"the state of the flow {wanted.flow} is shared out to {shares.cells} {shares.mode}, and the configuration "
            f"says {place.count} {place.mode}: change scaling back, or stop all processes of the flow and share it out "
            f"with `datastreamx rescale --cells {place.count} --mode {place.mode} --handed-over` first. "
            f"({handover.folder} tells so; move that folder away if the stores were shared out in another way, or if "
            "there are none)"
        )
    return shares


def _fits(wanted: Prepare) -> bool:
    """Whether the store that is there was made for this place."""
    try:
        manifest = read_manifest(wanted.store)
    except StateMismatchError:
        return False
    return Place(manifest.mode, manifest.ordinal, manifest.cells) == _bare(wanted.place)


def _shared_out(wanted: Prepare, handover: Handover, now: datetime) -> Shares:
    shares = Shares(at=now, mode=wanted.place.mode, cells=wanted.place.count)
    handover.share_out(shares)
    return shares


def _bare(place: Place) -> Place:
    """As a record tells it, without addresses."""
    return Place(place.mode, place.ordinal, place.count)


# Taking over ---------------------------------------------------------------------------------------------------------


def _take_over(run: _Run, handover: Handover, shares: Shares | None) -> PrepareReport | None:
    """Take the store that was handed over for this place, if there is one and it was not taken yet."""
    wanted, name = run.wanted, run.wanted.store.name
    handed = handover.handed_to(name, shares)
    if handed is not None:
        # A kill may have met us between the swap and the mark.
        set_aside = None if is_origin(handed, wanted.store) else _move_in(run, handed)
        handover.take(handed)
        run.on_step("marked")
        # What this place has left before is older.
        forget(handover, wanted.store)
        return _took_over(wanted, handed, set_aside)
    left = handover.left_of(name)
    used = () if shares is None else shares.made_from
    if left is None or left.record.place != _bare(wanted.place) or left.id in used:
        return None
    if is_origin(left, wanted.store):
        write_mark(wanted.store, left)
        return None
    if not (holds_nothing(wanted.store) or _is_refused(wanted)):
        return None
    try:
        set_aside = _move_in(run, left)
    except StaleStoreError as error:
        _log.info("prepare.old_copy", store=name, copy=str(left.folder), problem=str(error))
        return None
    write_mark(wanted.store, left)
    return _took_over(wanted, left, set_aside)


def _move_in(run: _Run, copy: Copy) -> str | None:
    """Copy, check, and replace what is there, which is set aside; the folder that it is in then."""
    wanted = run.wanted
    directory, store = wanted.directory, wanted.store
    run.locks.take(["prepare"])
    swap = Swap(
        kind="prepare",
        command=wanted.command,
        aside=aside_name(directory, "prepare", run.now),
        old=(store.name,) if store.exists() else (),
        new=(store.name,),
    )
    with replacing(directory, swap, run.on_step) as place:
        contents = put_back(wanted.config, copy.folder, copy.record, place / store.name)
        parts = positions_in(contents, wanted.flow)
        problem = wanted.ask(wanted.config, wanted.flow, merge(parts)) if parts else None
        if problem is not None:
            raise StaleStoreError(
                f"the store that was handed over in {copy.folder} is not the one that the flow {wanted.flow} used "
                f"last: {problem}. It is not taken over. Which store is the newest? Put that in its place, and "
                f"move {copy.folder} away"
            )
        write_origin(place / store.name, copy)
        run.on_step("checked")
    aside = directory / swap.aside
    for older in directory.glob("before-prepare-*"):
        # A volume holds the store, the one before and the one that comes; one more per re-shard would fill it.
        if older != aside and (older / store.name).exists():
            shutil.rmtree(older, ignore_errors=True)
    if wanted.flow == ADS:
        # A replay that was begun before would otherwise be resumed at the next loss.
        site = Site.of_store(wanted.config, wanted.place)
        site.marker.unlink(missing_ok=True)
        site.clear()
    return str(aside) if aside.exists() else None


def _took_over(wanted: Prepare, copy: Copy, set_aside: str | None) -> PrepareReport:
    return wanted.report(
        "took_over",
        f"it was handed over at {copy.taken_at:%Y-%m-%d %H:%M:%S} UTC",
        keys=copy.record.keys,
        taken_from=str(copy.folder),
        set_aside=set_aside,
    )


# Without a store -----------------------------------------------------------------------------------------------------


def _is_refused(wanted: Prepare) -> bool:
    """Whether a store was refused here. One that was to be moved away, and its process was killed before, is now."""
    try:
        require_no_refusal(wanted.store)
    except StateMismatchError:
        return True
    return False


def _replay_of(wanted: Prepare) -> Marker | None:
    """A replay that was begun here and not finished."""
    return read_marker(Site.of_store(wanted.config, wanted.place).marker) if wanted.flow == ADS else None


def _is_half_installed(wanted: Prepare) -> bool:
    """Whether a replay was killed while it moved its store in."""
    marker = _replay_of(wanted)
    return marker is not None and marker.is_done


def _without_store(
    wanted: Prepare, handover: Handover | None, now: datetime, *, is_refused: bool, is_known: bool
) -> PrepareReport:
    flow = wanted.flow
    if flow != ADS:
        require_no_refusal(wanted.store)
    is_begun = _replay_of(wanted) is not None
    if not (is_refused or is_begun or wanted.has_run(wanted.config, flow, wanted.place)):
        if handover is not None and not is_known:
            _shared_out(wanted, handover, now)
        return wanted.report("nothing", f"the flow {flow} never ran here, and begins with an empty store")
    if flow != ADS:
        return wanted.report(
            "nothing",
            f"the store of the flow {flow} is gone and cannot be rebuilt: what to do is told by the check at the "
            'start, and in "Lost or damaged recovery store" in docs/runbook.md',
        )
    if handover is not None and not (is_refused or is_begun or is_known):
        raise StateMismatchError(
            f"there is no store in {wanted.store}, and the flow ran before: it was lost, or scaling was changed "
            f"without `datastreamx rescale`. Which, nothing in {handover.folder} tells yet; every other place of the "
            "flow tells there when it is prepared. If it was lost: `datastreamx replay --from beginning`"
        )
    _log.info("prepare.rebuilding", store=wanted.store.name, refused=is_refused)
    summary = wanted.rebuild()
    if not summary.is_finished:
        return wanted.report("stopped", "the store is being rebuilt, and the same command goes on", replay=summary)
    if handover is not None:
        # The flow goes on by another history.
        forget(handover, wanted.store)
        if not is_known:
            _shared_out(wanted, handover, now)
    return wanted.report("rebuilt", "it was refused" if is_refused else "it was lost", replay=summary)
