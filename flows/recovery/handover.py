"""Recovery stores on their way from one volume to another, in a folder that all processes reach.

    FLOW/shares.json        how the state of the flow is shared out, and by which re-shard
    FLOW/left/STORE/        what the process of a store has left when it was stopped: a backup of that store
    FLOW/made/NAME/         what a re-shard has made: a backup of all new stores
    FLOW/taken/STORE.json   the last one of these that was taken over at the place of that store

The folder may be object storage that is mounted: nothing rests on locks, on fsync, or on renaming folders, and no
SQLite file is opened there. A backup counts once its record is there, which is written last. What is taken is copied
first, and checked where it was copied to.

A copy that was left counts as long as its flow has not gone on. So whoever starts the flow withdraws it first: a mark
beside the store says that there is something to withdraw, so that a start without one needs no such folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from datastreamx.config import Config
from datastreamx.errors import CrashError, StateMismatchError
from datastreamx.log import get_logger
from datastreamx.place import Place
from flows.recovery.backup import RECORD, BackupRecord, StoreRecord, copy_held, file_record, read_backup
from flows.recovery.durable import write_durably
from flows.recovery.lock import locked
from flows.recovery.manifest import FILE as MANIFEST
from flows.recovery.quarantine import require_no_refusal
from flows.recovery.reshard import Mode
from flows.recovery.swap import OnStep, unfinished_rescale

FORMAT = 1
ORIGIN = "taken-over.json"
"""In the folder of a store that was taken over: which one it was."""

S = TypeVar("S", bound=msgspec.Struct)

_log = get_logger("handover")


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """How the state of a flow is shared out: `shares.json`. With another number of cells nothing is prepared.

    Attributes:
        at: UTC, when it was written.
        mode: As `scaling.mode`.
        cells: Cells, or processes of the cluster.
        made: Folder below `made` with the stores of a re-shard; unset before the first one.
        made_from: Ids of the copies that these were made from, which are of no further use.
    """

    format: int = FORMAT
    at: datetime
    mode: Mode
    cells: int
    made: str | None = None
    made_from: tuple[str, ...] = ()


class _Id(msgspec.Struct, frozen=True):
    """Content of the small files that name one copy."""

    id: str


@dataclass(frozen=True)
class Copy:
    """A store in the folder.

    Attributes:
        folder: Its files.
        record: What they have to be.
        taken_at: When it was written, UTC.
    """

    folder: Path
    record: StoreRecord
    taken_at: datetime

    @property
    def id(self) -> str:
        """No other copy has it: the moment is part of it, and so is every byte."""
        return hashlib.sha256(msgspec.json.encode((self.taken_at, self.record))).hexdigest()[:16]


class Handover:
    """The folder of one flow.

    Args:
        root: `recovery.handover`.
    """

    def __init__(self, root: Path, flow: str) -> None:
        self.flow = flow
        self.folder = root / flow
        self._left = self.folder / "left"
        self._made = self.folder / "made"
        self._taken = self.folder / "taken"

    @classmethod
    def of(cls, config: Config, flow: str) -> Handover | None:
        """As configured; `None`: there is no such folder."""
        return None if config.recovery.handover is None else cls(Path(config.recovery.handover), flow)

    def shares(self) -> Shares | None:
        """How the state is shared out; `None`: nothing is known.

        Raises:
            StateMismatchError: The file cannot be read.
        """
        shares = _read(self._shares, Shares)
        if shares is not None and shares.format != FORMAT:
            raise StateMismatchError(f"{self._shares} has format {shares.format}, this program reads {FORMAT}")
        return shares

    def share_out(self, shares: Shares) -> None:
        """From now on it is shared out like this. What earlier re-shards have made is removed."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(self._shares, shares)
        for old in self._made.glob("*"):
            if old.name != shares.made:
                remove(old)

    @property
    def _shares(self) -> Path:
        return self.folder / "shares.json"

    def left(self) -> dict[str, Copy]:
        """What stopped processes have left, by store.

        Raises:
            StateMismatchError: A record cannot be read.
        """
        found = (self.left_of(slot.name) for slot in sorted(self._left.glob("*")))
        return {copy.record.store: copy for copy in found if copy is not None}

    def left_of(self, store: str) -> Copy | None:
        """What the process of one store has left; raises what `left` does."""
        return next(iter(_copies(self.slot(store))), None)

    def slot(self, store: str) -> Path:
        """Where the process of a store leaves it."""
        return self._left / store

    def made(self, name: str) -> Path:
        """Where the re-shard of that name leaves what it makes."""
        return self._made / name

    def handed(self, shares: Shares | None) -> dict[str, Copy]:
        """What the last re-shard has made and nobody has taken over yet, by store.

        Raises:
            StateMismatchError: A record cannot be read.
        """
        if shares is None or shares.made is None:
            return {}
        found = _copies(self.made(shares.made))
        return {copy.record.store: copy for copy in found if not self.is_taken(copy)}

    def handed_to(self, store: str, shares: Shares | None) -> Copy | None:
        """Likewise for one store, whatever there is of the others; raises what `handed` does."""
        if shares is None or shares.made is None:
            return None
        found = _copies(self.made(shares.made), store)
        return next((copy for copy in found if not self.is_taken(copy)), None)

    def is_taken(self, copy: Copy) -> bool:
        """Whether it was taken over, and must not be once more.

        Raises:
            StateMismatchError: The mark cannot be read.
        """
        return _read(self._mark(copy), _Id) == _Id(copy.id)

    def take(self, copy: Copy) -> None:
        """It is taken over. Its bytes are of no further use, and go."""
        self._taken.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(self._mark(copy), _Id(copy.id))
        shutil.rmtree(copy.folder, ignore_errors=True)

    def _mark(self, copy: Copy) -> Path:
        return self._taken / f"{copy.record.store}.json"


def put(slot: Path, drafts: Path, record: BackupRecord, on_step: OnStep) -> None:
    """Write a backup from the folder `drafts`, read it back, and then let it count.

    Raises:
        CrashError: What is read is not what was written.
    """
    remove(slot)
    for store in record.stores:
        folder = slot / store.store
        # It holds raw box ids and what they watched.
        folder.mkdir(mode=0o700, parents=True)
        for name, file in store.files.items():
            shutil.copyfile(drafts / store.store / name, folder / name)
            if file_record(folder / name) != file:
                raise CrashError(f"{folder / name} is not what was written there: is the storage full or damaged?")
        on_step(f"copied {store.store}")
    _write(slot / RECORD, record)
    on_step("recorded")


def remove(slot: Path) -> None:
    """Remove a backup: from the first step on it does not count."""
    (slot / RECORD).unlink(missing_ok=True)
    shutil.rmtree(slot, ignore_errors=True)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Raise CrashError for what a disk or the folder refuses."""
    try:
        yield
    except OSError as error:
        raise CrashError(
            f"{what}: {error}. Make room, or repair the disk or the mount, and run the same command again"
        ) from None


# A process leaves its store ------------------------------------------------------------------------------------------


def leave(config: Config, flow: str, place: Place, now: datetime, on_step: OnStep = lambda _: None) -> Copy:
    """Leave a checked copy of a store whose process was stopped. The process that starts next withdraws it.

    Args:
        config: That of the flow; `recovery.handover` is set.
        flow: Whose store.
        place: Likewise.
        now: UTC.
        on_step: Told of every step that is done.

    Raises:
        StateMismatchError: There is no store, it is refused, damaged or being replaced.
        CrashError: A process is using it, or something cannot be written.
    """
    handover = Handover.of(config, flow)
    if handover is None:
        raise CrashError("recovery.handover is not set: there is nowhere to leave the store")
    directory = Path(config.recovery.directory)
    store = directory / place.store_name(flow)
    drafts = directory / f".{store.name}.left"
    with told(f"no copy of {store} can be left in {handover.folder}"), locked(store):
        replaced = unfinished_rescale(directory)
        if replaced is not None:
            raise StateMismatchError(replaced)
        require_no_refusal(store)
        if not (store / MANIFEST).exists():
            raise StateMismatchError(f"there is no recovery store in {store}: nothing to leave")
        shutil.rmtree(drafts, ignore_errors=True)
        try:
            drafts.mkdir(mode=0o700)
            record = BackupRecord(taken_at=now, stores=(copy_held(config, flow, store, drafts / store.name),))
            on_step("checked")
            (copy,) = _copies_of(handover.slot(store.name), record)
            # The mark first: a copy that nobody withdraws would be taken for the newest one for ever.
            write_mark(store, copy)
            put(handover.slot(store.name), drafts, record, on_step)
        finally:
            shutil.rmtree(drafts, ignore_errors=True)
    return copy


def withdraw(config: Config, flow: str, store: Path) -> None:
    """Withdraw the copy that this store's process has left, if there is one: the flow is about to go on.

    Raises:
        CrashError: That cannot be done, and the flow must not go on.
    """
    mark = _left_mark(store)
    handover = Handover.of(config, flow)
    if handover is None or not mark.exists():
        return
    slot = handover.slot(store.name)
    try:
        remove(slot)
        mark.unlink()
    except OSError as error:
        raise CrashError(
            f"the copy of {store} that was left in {slot} cannot be withdrawn: {error}. A re-shard would take it for "
            "the newest state while the flow goes on. Repair the mount, and start again"
        ) from None
    _log.info("handover.withdrawn", store=store.name)


def forget(handover: Handover, store: Path) -> None:
    """Remove what this store's process has left before, and the mark: the store is another one now."""
    remove(handover.slot(store.name))
    _left_mark(store).unlink(missing_ok=True)


def write_mark(store: Path, copy: Copy) -> None:
    """There is a copy of this store to withdraw before the flow goes on."""
    write_durably(_left_mark(store), msgspec.json.encode(_Id(copy.id)))


def write_origin(store: Path, copy: Copy) -> None:
    """The store in this folder is that copy, as it was taken over."""
    write_durably(store / ORIGIN, msgspec.json.encode(_Id(copy.id)))


def is_origin(copy: Copy, store: Path) -> bool:
    """Whether the store in this folder began as that copy."""
    return _read(store / ORIGIN, _Id) == _Id(copy.id)


def _left_mark(store: Path) -> Path:
    return store.with_name(f"{store.name}.left.json")


def _copies(slot: Path, store: str | None = None) -> list[Copy]:
    """What is whole. Old files may be deleted one by one by a rule of the storage, and a copy that was taken is."""
    if not (slot / RECORD).exists():
        return []
    copies = [copy for copy in _copies_of(slot, read_backup(slot)) if store in {None, copy.record.store}]
    return [copy for copy in copies if all((copy.folder / name).exists() for name in copy.record.files)]


def _copies_of(slot: Path, record: BackupRecord) -> list[Copy]:
    return [Copy(slot / store.store, store, record.taken_at) for store in record.stores]


def _read(path: Path, kind: type[S]) -> S | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StateMismatchError(f"{path} cannot be read: {error}") from None


def _write(path: Path, content: msgspec.Struct) -> None:
    """Replace a small file. A single file is replaced as a whole by object storage, too."""
    # Several processes may write the same at a time.
    handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    Path(unfinished).replace(path)
