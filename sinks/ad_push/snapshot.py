"""Snapshot of the ad push sink: the highest acknowledged offset per partition."""

from __future__ import annotations

import msgspec

from datastreamx.errors import StateMismatchError
from datastreamx.snapshots import decode_versioned, encode_versioned

VERSION = 2


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    version: int
    topic: str
    acked: dict[int, int]


_DECODER = msgspec.msgpack.Decoder(_Snapshot)


def encode_acked(topic: str, acked: dict[int, int]) -> bytes:
    """Sealed, versioned bytes for the recovery store."""
    return encode_versioned(_Snapshot(VERSION, topic, acked))


def decode_acked(raw: bytes, topic: str) -> dict[int, int]:
    """Invert `encode_acked`.

    Raises:
        StateMismatchError: Damaged, of another version or topic, or no snapshot at all.
    """
    snapshot = decode_versioned(raw, _DECODER, VERSION, "the ad push sink")
    if snapshot.topic != topic:
        raise StateMismatchError(
            f"the recovery store was written for topic {snapshot.topic}, but topics.decisions is {topic}; decisions "
            "in the old topic would be forgotten and made again: change it back, or start with a new store"
        )
    return snapshot.acked
