"""Snapshot of the ad push sink: the highest acknowledged offset per partition, as versioned JSON."""

from __future__ import annotations

import msgspec

from datastreamx.errors import StateMismatchError

VERSION = 1


class _Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    v: int
    topic: str
    acked: dict[int, int]


def encode_acked(topic: str, acked: dict[int, int]) -> bytes:
    """Bytes for the recovery store."""
    return msgspec.json.encode(_Snapshot(v=VERSION, topic=topic, acked=acked))


def decode_acked(raw: bytes, topic: str) -> dict[int, int]:
    """Invert `encode_acked`.

    Raises:
        StateMismatchError: Other version or topic, or no snapshot at all.
    """
    try:
        snapshot = msgspec.json.decode(raw, type=_Snapshot)
    except msgspec.DecodeError as error:
        raise StateMismatchError(f"the ad push sink's snapshot cannot be read ({error}): {raw[:80]!r}") from None
    if snapshot.v != VERSION:
        raise StateMismatchError(
            f"the ad push sink's snapshot has version {snapshot.v}, this program reads version {VERSION}; "
            "start the program that wrote it"
        )
    if snapshot.topic != topic:
        raise StateMismatchError(
            f"the recovery store was written for topic {snapshot.topic}, but topics.decisions is {topic}; decisions "
            "in the old topic would be forgotten and made again: change it back, or start with a new store"
        )
    return snapshot.acked
