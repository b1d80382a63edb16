"""Recovery stores replaced by others as one step, whatever is killed on the way.

New stores are built in a folder of their own, beside a journal. Until the journal says that they are complete, nothing
else has changed, and the whole may be thrown away. From then on the old ones are set aside and the new ones moved in;
every move can be done again. No flow starts meanwhile, for `unfinished_rescale` sees the journal.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from datastreamx.errors import CrashError, DatastreamXError, StateMismatchError
from flows.recovery.durable import sync_directory, write_durably

JOURNAL = "journal.json"

Kind = Literal["rescale", "restore", "prepare"]
KINDS: tuple[Kind, ...] = ("rescale", "restore", "prepare")

OnStep = Callable[[str], None]
"""Told of each step that is done; raising stops the swap there, as a crash would."""

COMPANIONS = ("refused.json", "status.json")
"""Files beside a store, `<store>.<name>`, that speak of the old one and go with it."""


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """The journal.

    Attributes:
        kind: What is going on; names the folder in which it goes on.
        command: What the operator typed, and has to type again if it was interrupted.
        aside: Folder below the recovery directory that the old stores are moved to.
        old: Stores to set aside.
        new: Stores to move in.
        is_complete: The new stores are complete and checked; from here on it goes only forward.
    """

    kind: Kind
    command: str
    aside: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    is_complete: bool = False


@contextmanager
def disk_errors_told(directory: Path) -> Iterator[None]:
    """Raise CrashError, which says what to do, for what the disk refuses."""
    try:
        yield
    except OSError as error:
        raise CrashError(
            f"the stores below {directory} cannot be replaced: {error}. Make room or repair the disk, and run the same "
            "command again, which takes back or finishes what was begun"
        ) from None


def workshop(directory: Path, kind: Kind) -> Path:
    """Folder in which new stores are built."""
    return directory / f".{kind}"


def unfinished(directory: Path, kind: Kind) -> Swap | None:
    """Journal of a swap that was begun below `directory` and has not ended.

    Raises:
        StateMismatchError: It cannot be read.
    """
    path = workshop(directory, kind) / JOURNAL
    try:
        return msgspec.json.decode(path.read_bytes(), type=Swap)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StateMismatchError(f"{path} cannot be read: {error}") from None


def unfinished_rescale(directory: Path) -> str | None:
    """Why no flow may start on the stores below `directory`, in words; `None` if none of them is being replaced.

    Raises:
        StateMismatchError: A journal cannot be read.
    """
    found = next((swap for kind in KINDS if (swap := unfinished(directory, kind)) is not None), None)
    return None if found is None else told(directory, found)


def require_no_other(directory: Path, kind: Kind) -> None:
    """Check that the stores below `directory` are not being replaced in another way than `kind`.

    Raises:
        StateMismatchError: They are.
    """
    for other in KINDS:
        if other != kind and (swap := unfinished(directory, other)) is not None:
            raise StateMismatchError(told(directory, swap))


def aside_name(directory: Path, kind: Kind, now: datetime) -> str:
    """Name of a folder for the old stores that does not exist yet."""
    name = f"before-{kind}-{now:%Y%m%dT%H%M%SZ}"
    others = itertools.count(2)
    free = name
    while (directory / free).exists():
        free = f"{name}-{next(others)}"
    return free


def begin(directory: Path, swap: Swap, on_step: OnStep) -> Path:
    """An empty folder to build the stores `swap.new` in. What a swap that had not got far has left is removed."""
    place = workshop(directory, swap.kind)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    _write(place / JOURNAL, swap)
    on_step("begun")
    return place


@contextmanager
def replacing(directory: Path, swap: Swap, on_step: OnStep) -> Iterator[Path]:
    """An empty folder to build and check the stores `swap.new` in; they replace the old ones when the context ends.

    If it ends by an error of ours, nothing is changed, and the flows may go on as they were.
    """
    place = begin(directory, swap, on_step)
    try:
        yield place
    except (DatastreamXError, OSError, KeyboardInterrupt):
        finish(directory, swap, on_step)
        raise
    complete(directory, swap, on_step)


def complete(directory: Path, swap: Swap, on_step: OnStep) -> None:
    """Replace the old stores by `swap.new`, which are built and checked, and whose files are durable."""
    place = workshop(directory, swap.kind)
    for name in swap.new:
        sync_directory(place / name)
    swap = msgspec.structs.replace(swap, is_complete=True)
    _write(place / JOURNAL, swap)
    on_step("complete")
    finish(directory, swap, on_step)


def finish(directory: Path, swap: Swap, on_step: OnStep) -> None:
    """Go on where a swap stands: take it back unless it is complete, else do what is left to do."""
    place = workshop(directory, swap.kind)
    if swap.is_complete:
        _move_out(directory, swap, on_step)
        for name in swap.new:
            if (place / name).exists():
                (place / name).rename(directory / name)
                on_step(f"moved in {name}")
        sync_directory(directory)
        with suppress(OSError):  # it is kept unless it is empty
            (directory / swap.aside).rmdir()
    (place / JOURNAL).unlink()
    on_step("journal removed")
    shutil.rmtree(place)


def told(directory: Path, swap: Swap) -> str:
    """That a swap is under way or was interrupted, and what to do."""
    return (
        f"the recovery stores below {directory} are being replaced, or were when that was interrupted: run "
        f"`{swap.command}` again, which finishes it or takes it back"
    )


def _move_out(directory: Path, swap: Swap, on_step: OnStep) -> None:
    """A store that is in the folder already was moved before; what has its name now is a new one."""
    aside = directory / swap.aside
    aside.mkdir(exist_ok=True)
    for name in dict.fromkeys((*swap.old, *swap.new)):
        for companion in COMPANIONS:
            with suppress(FileNotFoundError):
                (directory / f"{name}.{companion}").rename(aside / f"{name}.{companion}")
    for name in swap.old:
        if not (aside / name).exists():
            (directory / name).rename(aside / name)
            on_step(f"set aside {name}")
    sync_directory(aside)
    sync_directory(directory)


def _write(path: Path, swap: Swap) -> None:
    write_durably(path, msgspec.json.encode(swap))
