"""Versioned bytes of a key group's state. Never a pickle: a renamed class must not cost the state."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from datastreamx.errors import StateMismatchError
from datastreamx.model.keygroup import KeyGroup
from operators.viewing.box import Box
from operators.viewing.state import KeyGroupState

VERSION = 2


class _Snapshot(msgspec.Struct, array_like=True):
    version: int
    partition: int
    group: int
    watermark_ms: int
    boxes: dict[str, Box]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Snapshot)
_RAW_DECODER = msgspec.msgpack.Decoder(list[msgspec.Raw])


def encode_snapshot(state: KeyGroupState) -> bytes:
    """MessagePack of the state, fields by position. Bytewax does not tell a logic its key, so the key is part of it."""
    return _ENCODER.encode(_Snapshot(VERSION, *state.key_group, state.watermark_ms, state.boxes))


def decode_snapshot(snapshot: bytes, make_state: Callable[[KeyGroup], KeyGroupState]) -> KeyGroupState:
    """Invert `encode_snapshot`, into the empty state that `make_state` gives.

    Raises:
        StateMismatchError: Another version, or bytes that are no snapshot.
    """
    try:
        version = msgspec.msgpack.decode(_RAW_DECODER.decode(snapshot)[0], type=int)
        if version == VERSION:
            decoded = _DECODER.decode(snapshot)
            state = make_state(KeyGroup(decoded.partition, decoded.group))
            state.restore(decoded.watermark_ms, decoded.boxes)
            return state
    except (msgspec.DecodeError, IndexError) as error:
        raise StateMismatchError(f"viewing state of {len(snapshot)} bytes cannot be read: {error}") from None
    raise StateMismatchError(
        f"viewing state has version {version}, this program reads {VERSION}: start the release that wrote it, "
        "or rebuild the state by replay"
    )
