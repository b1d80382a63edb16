"""A damaged store is set aside, and nothing starts in its place until somebody has decided what is to become of it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from datastreamx.errors import StateMismatchError
from flows.recovery.durable import sync_directory, write_durably


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Content of `<store>.refused.json`.

    Attributes:
        reason: What is wrong with the store.
        moved_to: Where it is now.
        at: When, in UTC.
    """

    reason: str
    moved_to: str
    at: datetime


def refusal_file(store: Path) -> Path:
    """As long as this file is there, no flow starts with the store."""
    return store.with_name(f"{store.name}.refused.json")


def quarantine(store: Path, reason: str, now: datetime) -> StateMismatchError:
    """Move the store aside for good.

    Args:
        store: Its folder.
        reason: What is wrong with it.
        now: In UTC.

    Returns:
        The error to raise.
    """
    moved_to = store.with_name(f"{store.name}.quarantine-{now:%Y%m%dT%H%M%SZ}")
    refusal = Refusal(reason=reason, moved_to=str(moved_to), at=now)
    # The refusal first: a crash in between must not leave an empty place where a store was.
    write_durably(refusal_file(store), msgspec.json.format(msgspec.json.encode(refusal), indent=2) + b"\n")
    _move(store, moved_to)
    return _error(store, refusal)


def require_no_refusal(store: Path) -> None:
    """Check that no earlier store was set aside here without a decision about it since.

    Raises:
        StateMismatchError: One was.
    """
    path = refusal_file(store)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    try:
        refusal = msgspec.json.decode(content, type=Refusal)
    except msgspec.DecodeError as error:
        raise StateMismatchError(f"recovery store {store} was refused; why, {path} no longer tells ({error})") from None
    moved_to = Path(refusal.moved_to)
    if store.exists() and not moved_to.exists():
        _move(store, moved_to)  # The process that refused it was killed before it could.
    raise _error(store, refusal)


def _move(store: Path, moved_to: Path) -> None:
    store.replace(moved_to)
    sync_directory(store.parent)


def _error(store: Path, refusal: Refusal) -> StateMismatchError:
    return StateMismatchError(
        f"{refusal.reason}\n"
        f"The store was moved to {refusal.moved_to} at {refusal.at:%Y-%m-%d %H:%M:%S} UTC and {store} will not be used "
        "before one of these is done:\n"
        "  - put a backup back: `datastreamx restore`\n"
        "  - of the ads flow: rebuild it from the topics, `datastreamx replay`\n"
        f"  - begin anew: delete {refusal_file(store).name}, and start once with --accept-store. State is lost, and "
        'what was done may be done a second time: "Lost or damaged recovery store" in docs/runbook.md says at what '
        "price"
    )
