"""Sealed, versioned bytes of the items in flight under one key."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from datastreamx.snapshots import decode_versioned, encode_versioned

VERSION = 2

V = TypeVar("V")


class InFlight(msgspec.Struct, Generic[V], frozen=True):
    """An item whose output has not left.

    Attributes:
        attempt: 1, and one more for every time it was issued again after a crash.
    """

    item: V
    attempt: int


class _Head(msgspec.Struct, frozen=True, array_like=True):
    version: int
    key: str


class Snapshot(msgspec.Struct, Generic[V], frozen=True, array_like=True):
    """What survives a crash: inputs, never outputs.

    Attributes:
        key: Bytewax does not tell a logic its key.
        mark: Where the journal is to be read from; see `Journal.mark`.
        in_flight: In the order of their arrival. Their fields are by name: items gain fields over time and must stay
            readable.
    """

    version: int
    key: str
    mark: int | None
    in_flight: list[InFlight[V]]


_HEAD_DECODER = msgspec.msgpack.Decoder(_Head)


class SnapshotCodec(Generic[V]):
    """Writes and reads snapshots of one step.

    Args:
        step_id: Named in errors.
        item_type: What msgspec is to read items as.
    """

    def __init__(self, step_id: str, item_type: Any) -> None:
        self._step_id = step_id
        self._decoder: msgspec.msgpack.Decoder[Snapshot[V]] = msgspec.msgpack.Decoder(Snapshot[item_type])

    def encode(self, snapshot: Snapshot[V]) -> bytes:
        """Invert `decode`."""
        return encode_versioned(snapshot)

    def decode(self, data: bytes) -> Snapshot[V]:
        """Invert `encode`.

        Raises:
            StateMismatchError: Damaged, of another version, or no snapshot.
        """
        return decode_versioned(data, self._decoder, VERSION, self._step_id)


def snapshot_key(data: bytes) -> str:
    """Bytewax key of the items in `data`, whatever their type.

    Raises:
        StateMismatchError: As for `SnapshotCodec.decode`.
    """
    return decode_versioned(data, _HEAD_DECODER, VERSION, "items in flight").key
