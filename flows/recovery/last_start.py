"""What a store held at the last start: keys never vanish, and progress is never undone.

SQLite finds damage within a file. It cannot find that a row was deleted, or that a file is an old copy of itself.
"""

from __future__ import annotations

import msgspec

from flows.recovery.durable import write_durably
from flows.recovery.part import damage
from flows.recovery.store import FIRST_EPOCH, StoreContents

FILE = "last-start.json"


class LastStart(msgspec.Struct, frozen=True, kw_only=True):
    """Content of the file.

    Attributes:
        resume_epoch: Where the flow resumed.
        keys: State keys by step, sorted.
    """

    resume_epoch: int
    keys: dict[str, list[str]]


def check_last_start(contents: StoreContents) -> None:
    """Compare a store with what is known of it, and take down what it holds now.

    A store without the file is new, or was written by a re-shard: nothing is known of it.

    Raises:
        DamagedStoreError: The store lacks what it held, or the file cannot be read.
    """
    last, now = _read(contents), _of(contents)
    if last is not None:
        _compare(contents, last, now)
    if now != last:
        write_durably(contents.directory / FILE, msgspec.json.encode(now))


def had_begun(contents: StoreContents) -> bool:
    """Whether something was durable at the last start.

    Raises:
        DamagedStoreError: The file cannot be read.
    """
    last = _read(contents)
    return last is not None and last.resume_epoch > FIRST_EPOCH


def _read(contents: StoreContents) -> LastStart | None:
    path = contents.directory / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=LastStart)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damage(path, f"it cannot be read: {error}") from None


def _of(contents: StoreContents) -> LastStart:
    keys: dict[str, list[str]] = {}
    for row in contents.rows:
        keys.setdefault(row.step_id, []).append(row.state_key)
    return LastStart(resume_epoch=contents.resume_epoch, keys=keys)


def _compare(contents: StoreContents, last: LastStart, now: LastStart) -> None:
    if now.resume_epoch < last.resume_epoch:
        raise damage(
            contents.directory,
            f"the flow resumed at epoch {last.resume_epoch} last time, and would at {now.resume_epoch} now: the files "
            "are older than that start",
        )
    for step_id, keys in last.keys.items():
        gone = sorted({*keys} - {*now.keys.get(step_id, [])})
        if gone:
            raise damage(contents.directory, f"{step_id} {', '.join(gone)} was there at the last start, and is gone")
