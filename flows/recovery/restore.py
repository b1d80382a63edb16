"""Recovery stores from a backup put back in their places, and what each flow will do with an older one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from datastreamx.config import Config
from datastreamx.errors import RetryableError, StateMismatchError
from flows.ports.notices import GROUP as NOTICES_GROUP
from flows.recovery.backup import StoreRecord, check_copy, put_back, read_backup
from flows.recovery.inventory import Locks, store_names
from flows.recovery.manifest import read_manifest
from flows.recovery.store import StoreContents
from flows.recovery.swap import (
    OnStep,
    Swap,
    aside_name,
    disk_errors_told,
    finish,
    replacing,
    require_no_other,
    unfinished,
)
from sources.kafka import events, warehouse
from sources.kafka.positions import Positions, merge, read_positions
from sources.kafka.reader import PartitionReader
from sources.kafka.witness import complaint

Age = Literal["current", "old", "unknown"]
"""current: the flow has done nothing since, as far as the broker knows. unknown: the broker did not answer."""

GROUPS = {"ads": events.GROUP, "warehouse": warehouse.GROUP, "notices": NOTICES_GROUP}

REPEATING = {
    "warehouse": "Rows that are in BigQuery already would be loaded a second time",
    "notices": "Notices that were sent already would be sent a second time",
}
"""Flows that an old store harms, and how.

To the ads flow it does none: it reads its decisions back from the log, and what facts it writes again are dropped.
"""


class RestoredStore(msgspec.Struct, frozen=True, kw_only=True):
    """One store that was put back.

    Attributes:
        age: Whether the flow has gone on since.
        reason: What the broker tells of that, of one partition.
    """

    flow: str
    store: str
    keys: int
    age: Age
    reason: str | None = None


class RestoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was done.

    Attributes:
        state: `finished`: an interrupted run of the same command was.
        taken_at: Of the backup, UTC.
        mode: That the stores are for, like `cells`.
        set_aside: Folder with what was there before.
    """

    state: Literal["done", "finished"]
    taken_at: datetime
    mode: Literal["cells", "cluster"]
    cells: int
    stores: list[RestoredStore]
    set_aside: str | None = None


AskAge = Callable[[Config, str, Positions], str | None]
"""Config, flow and positions to what is wrong with them, see `ask_broker`."""


@dataclass(frozen=True)
class Restore:
    """What is wanted.

    Attributes:
        source: Folder of the backup.
        flows: Which; empty: all in the backup.
        force: Set aside what is there.
        accept_duplicates: Put back a store although its flow would do again what it has done.
    """

    config: Config
    source: Path
    flows: tuple[str, ...] = ()
    force: bool = False
    accept_duplicates: bool = False

    @property
    def directory(self) -> Path:
        """Where the stores belong."""
        return Path(self.config.recovery.directory)

    @property
    def command(self) -> str:
        """How to ask for it."""
        words = [f"datastreamx restore --from {self.source}", *(f"--flow {flow}" for flow in self.flows)]
        words += ["--force"] if self.force else []
        return " ".join([*words, *(["--accept-duplicates"] if self.accept_duplicates else [])])


def restore(
    wanted: Restore, now: datetime, on_step: OnStep = lambda _: None, *, ask: AskAge | None = None
) -> RestoreReport:
    """Do it.

    Args:
        wanted: What.
        now: UTC; names the folder for what is set aside.
        on_step: Told of every step that is done.
        ask: Instead of `ask_broker`.

    Raises:
        StateMismatchError: The backup is damaged, not for this configuration, or lacks a flow; a store is in its place
            and `force` is not set; an old one would repeat what is done and `accept_duplicates` is not set.
        CrashError: A process is using a store, or the disk cannot be written.
    """
    directory = wanted.directory
    directory.mkdir(parents=True, exist_ok=True)
    require_no_other(directory, "restore")
    record = read_backup(wanted.source)
    chosen = _chosen(wanted, record.stores)
    with disk_errors_told(directory), Locks(directory) as locks:
        locks.take(["restore", *(one.store for one in chosen)])
        begun = unfinished(directory, "restore")
        if begun is not None:
            locks.take((*begun.old, *begun.new))
            finish(directory, begun, on_step)
        is_finished = begun is not None and begun.is_complete and begun.command == wanted.command
        contents = {one.store: check_copy(wanted.config, wanted.source / one.store, one) for one in chosen}
        on_step("checked")
        stores = [_judge(wanted, one, contents[one.store], ask or ask_broker) for one in chosen]
        report = RestoreReport(
            state="finished" if is_finished else "done",
            taken_at=record.taken_at,
            mode=chosen[0].mode,
            cells=chosen[0].cells,
            stores=stores,
            set_aside=str(directory / begun.aside) if begun is not None and is_finished else None,
        )
        if is_finished:
            return report
        old = _present(wanted, chosen)
        locks.take(old)
        _refuse(wanted, stores, old)
        swap = _replace(wanted, chosen, old, now, on_step)
        return msgspec.structs.replace(report, set_aside=str(directory / swap.aside) if old else None)


def ask_broker(config: Config, flow: str, positions: Positions) -> str | None:
    """What the committed offsets of the flow say against positions, of one partition; `None`: nothing.

    Raises:
        RetryableError: No broker answered.
    """
    reader = PartitionReader(config.kafka, positions.layout, client_id="datastreamx-restore", group=GROUPS[flow])
    try:
        evidence = reader.evidence()
    finally:
        reader.close()
    for (topic, partition), told in sorted(evidence.items()):
        problem = complaint(positions.held[topic, partition], told)
        if problem is not None:
            return f"{topic}[{partition}]: {problem}"
    return None


def positions_in(contents: StoreContents, flow: str) -> list[Positions]:
    """Where the readers of the flow stand by a store; nothing if nothing in it is durable."""
    return [
        read_positions(row.value)
        for row in contents.rows
        if row.step_id in {"ads.events", f"{flow}.topics"} and row.value is not None
    ]


def _chosen(wanted: Restore, stores: Sequence[StoreRecord]) -> list[StoreRecord]:
    held = {one.flow for one in stores}
    absent = [flow for flow in wanted.flows if flow not in held]
    if absent or not stores:
        raise StateMismatchError(f"the backup {wanted.source} holds no store of {', '.join(absent) or 'any flow'}")
    return [one for one in stores if not wanted.flows or one.flow in wanted.flows]


def _judge(wanted: Restore, record: StoreRecord, contents: StoreContents, ask: AskAge) -> RestoredStore:
    parts = positions_in(contents, record.flow)
    reason: str | None = None
    age: Age = "current"
    if parts:
        try:
            reason = ask(wanted.config, record.flow, merge(parts))
            age = "current" if reason is None else "old"
        except RetryableError as error:
            reason, age = str(error), "unknown"
    return RestoredStore(flow=record.flow, store=record.store, keys=record.keys, age=age, reason=reason)


def _present(wanted: Restore, chosen: Sequence[StoreRecord]) -> list[str]:
    """Stores that would be replaced: of the same name, or of the same flow and of another number of cells."""
    shapes = {one.flow: (one.mode, one.cells) for one in chosen}
    new = {one.store for one in chosen}
    found = [(flow, name) for flow in shapes for name in store_names(wanted.directory, flow)]
    return [name for flow, name in found if name in new or _shape(wanted.directory / name) != shapes[flow]]


def _shape(store: Path) -> tuple[str, int] | None:
    try:
        manifest = read_manifest(store)
    except StateMismatchError:
        return None
    return manifest.mode, manifest.cells


def _refuse(wanted: Restore, stores: Sequence[RestoredStore], old: Sequence[str]) -> None:
    if old and not wanted.force:
        raise StateMismatchError(
            f"{wanted.directory} holds {', '.join(old)}, which would be replaced. --force sets aside what is there"
        )
    harmful = [one for one in stores if one.flow in REPEATING and one.age != "current"]
    if harmful and not wanted.accept_duplicates:
        lines = "\n".join(f"  - {one.store}: {one.reason}. {REPEATING[one.flow]}" for one in harmful)
        raise StateMismatchError(
            f"the backup {wanted.source} is older than what was done since, or nobody can tell:\n{lines}\n"
            "Rebuild the tables from the log instead (`datastreamx replay`), restore the other flows alone (`--flow`), "
            "or take it as it is with --accept-duplicates"
        )


def _replace(
    wanted: Restore, chosen: Sequence[StoreRecord], old: Sequence[str], now: datetime, on_step: OnStep
) -> Swap:
    directory = wanted.directory
    swap = Swap(
        kind="restore",
        command=wanted.command,
        aside=aside_name(directory, "restore", now),
        old=tuple(old),
        new=tuple(one.store for one in chosen),
    )
    with replacing(directory, swap, on_step) as place:
        for one in chosen:
            put_back(wanted.config, wanted.source / one.store, one, place / one.store)
            on_step(f"copied {one.store}")
    return swap
