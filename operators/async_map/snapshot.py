"""Versioned bytes of the items in flight under one key."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from datastreamx.errors import StateMismatchError

VERSION = 1

V = TypeVar("V")


class InFlight(msgspec.Struct, Generic[V], frozen=True):
    """An item whose output has not left.

    Attributes:
        attempt: 1, and one more for every time it was issued again after a crash.
    """

    item: V
    attempt: int


class Snapshot(msgspec.Struct, Generic[V], frozen=True):
    """What survives a crash: inputs, never outputs.

    Attributes:
        key: Bytewax does not tell a logic its key.
        mark: Where the journal is to be read from; see `Journal.mark`.
        in_flight: In the order of their arrival.
    """

    version: int
    key: str
    mark: int | None
    in_flight: list[InFlight[V]]


class _VersionOnly(msgspec.Struct):
    version: int


class SnapshotCodec(Generic[V]):
    """MessagePack, fields by name: items gain fields over time and must stay readable.

    Args:
        step_id: Named in errors.
        item_type: What msgspec is to read items as.
    """

    def __init__(self, step_id: str, item_type: Any) -> None:
        self._step_id = step_id
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Snapshot[V]] = msgspec.msgpack.Decoder(Snapshot[item_type])
        self._version_decoder = msgspec.msgpack.Decoder(_VersionOnly)

    def encode(self, snapshot: Snapshot[V]) -> bytes:
        """Invert `decode`."""
        return self._encoder.encode(snapshot)

    def decode(self, data: bytes) -> Snapshot[V]:
        """Invert `encode`.

        Raises:
            StateMismatchError: Another version, or bytes that are no snapshot.
        """
        try:
            version = self._version_decoder.decode(data).version
            if version == VERSION:
                return self._decoder.decode(data)
        except msgspec.DecodeError as error:
            raise StateMismatchError(f"{self._step_id}: state of {len(data)} bytes cannot be read: {error}") from None
        raise StateMismatchError(
            f"{self._step_id}: state has version {version}, this program reads {VERSION}: "
            "start the release that wrote it"
        )
