"""An unfinished replay, as a file beside its store: what it was asked for, and what that meant when it began.

`2h` means another moment every time; the replay goes on with the one that it began with.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from datastreamx.config import Config
from datastreamx.errors import CrashError, StateMismatchError
from flows.recovery.durable import write_durably
from flows.replaying.span import Span

VERSION = 1


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, word by word.

    Attributes:
        begin: As `--from` says.
        until: As `--until` says; unset: the moment at which the replay began.
        dataset: Where rows go; unset: a recovery store is built.
    """

    begin: str
    until: str | None = None
    dataset: str | None = None

    def __str__(self) -> str:
        options = {"--from": self.begin, "--until": self.until, "--dataset": self.dataset}
        return " ".join(f"{name} {value}" for name, value in options.items() if value is not None)


class Order(msgspec.Struct, frozen=True):
    """What was asked for, and what that means at this moment."""

    request: Request
    span: Span


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """An unfinished replay.

    Attributes:
        rules: Digest of the configuration that results follow from: half of them by other rules would be neither.
        is_done: The store is complete; only its move to its place may be left to do.
    """

    v: int = VERSION
    order: Order
    rules: str
    is_done: bool = False


def digest_of(config: Config) -> str:
    """Digest of what rows and state follow from."""
    events = config.events
    counts = (events.partitions, events.groups_per_partition, events.max_clock_skew_ms)
    parts = (config.topics, counts, config.viewing, config.warehouse.decision_memory_ms)
    secret = config.privacy.box_key_secret.reveal().encode()
    payload = msgspec.json.encode(parts) + hashlib.sha256(secret).digest()
    return hashlib.sha256(payload).hexdigest()[:16]


def read_marker(path: Path) -> Marker | None:
    """The unfinished replay, if there is one.

    Raises:
        StateMismatchError: The file is none of this program.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        marker = msgspec.json.decode(raw, type=Marker)
    except msgspec.DecodeError as error:
        raise StateMismatchError(f"{path} tells of no replay ({error}); {_abandon(path)}") from None
    if marker.v != VERSION:
        raise StateMismatchError(
            f"{path} has version {marker.v}, this program reads {VERSION}: let the release that began the replay "
            f"finish it, or {_abandon(path)}"
        )
    return marker


def write_marker(path: Path, marker: Marker) -> None:
    """Replace the file as a whole.

    Raises:
        CrashError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, msgspec.json.encode(marker))
    except OSError as error:
        raise CrashError(
            f"{path} cannot be written ({error}): is the disk full or read-only? Make room, and start again"
        ) from error


def require_same(marker: Marker, request: Request, rules: str, path: Path) -> None:
    """Check that the unfinished replay is the one that is wanted.

    Raises:
        StateMismatchError: It is another one, or by other rules.
    """
    if marker.order.request != request:
        raise StateMismatchError(
            f"{path} tells of an unfinished replay of `{marker.order.request}`, not of `{request}`: finish that one "
            f"with the same options, or {_abandon(path)}"
        )
    if marker.rules != rules:
        raise StateMismatchError(
            f"the replay that {path} tells of began under another configuration of topics, events, viewing, "
            f"warehouse or box_key_secret: change it back, or {_abandon(path)}"
        )


def _abandon(path: Path) -> str:
    return f"give it up: delete {path} and the folder {path.with_suffix('')}, and begin anew"
