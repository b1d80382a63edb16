"""Sealed, versioned bytes of a key group's state. Never a pickle: a renamed class must not cost the state."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from datastreamx.errors import StateMismatchError
from datastreamx.model.keygroup import KeyGroup
from datastreamx.snapshots import decode_versioned, encode_versioned
from operators.viewing.state import KeyGroupState, Packed

VERSION = 4


class _Head(msgspec.Struct, array_like=True):
    version: int
    partition: int
    group: int


class _Snapshot(_Head, array_like=True):
    state: Packed


_DECODER = msgspec.msgpack.Decoder(_Snapshot)
_HEAD_DECODER = msgspec.msgpack.Decoder(_Head)


def encode_snapshot(state: KeyGroupState) -> bytes:
    """MessagePack of the state, fields by position. Bytewax does not tell a logic its key, so the key is part of it."""
    return encode_versioned(_Snapshot(VERSION, *state.key_group, state.pack()))


def decode_snapshot(snapshot: bytes, make_state: Callable[[KeyGroup], KeyGroupState]) -> KeyGroupState:
    """Invert `encode_snapshot`, into the empty state that `make_state` gives.

    Raises:
        StateMismatchError: Damaged, of another version, or no snapshot.
    """
    decoded = decode_versioned(snapshot, _DECODER, VERSION, "viewing state")
    state = make_state(KeyGroup(decoded.partition, decoded.group))
    try:
        state.restore(decoded.state)
    except (ValueError, msgspec.DecodeError) as error:
        raise StateMismatchError(f"the snapshot of viewing state cannot be read: {error}") from None
    return state


def snapshot_key(snapshot: bytes) -> str:
    """Bytewax key of the state in `snapshot`; the boxes are not decoded.

    Raises:
        StateMismatchError: As for `decode_snapshot`.
    """
    head = decode_versioned(snapshot, _HEAD_DECODER, VERSION, "viewing state")
    return KeyGroup(head.partition, head.group).key
