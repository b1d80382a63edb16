"""Versioned bytes of a key group's running auctions."""

from __future__ import annotations

import msgspec

from datastreamx.errors import StateMismatchError
from datastreamx.model.keygroup import KeyGroup
from operators.bidding.house import InFlight

VERSION = 1


class BiddingSnapshot(msgspec.Struct, frozen=True):
    """What survives a crash: inputs, never replies.

    Attributes:
        read_from: An acknowledged offset of the partition of ad-decisions. Every decision about an opportunity that is
            in flight here, or that comes after, lies behind it. `None`: none is known, all of the log may matter.
    """

    version: int
    partition: int
    group: int
    read_from: int | None
    in_flight: list[InFlight]

    @property
    def key_group(self) -> KeyGroup:
        """Key group that the snapshot belongs to."""
        return KeyGroup(self.partition, self.group)


class _VersionOnly(msgspec.Struct):
    version: int


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(BiddingSnapshot)
_VERSION_DECODER = msgspec.msgpack.Decoder(_VersionOnly)


def encode_snapshot(snapshot: BiddingSnapshot) -> bytes:
    """MessagePack, fields by name: opportunities gain fields over time and must stay readable."""
    return _ENCODER.encode(snapshot)


def decode_snapshot(data: bytes) -> BiddingSnapshot:
    """Invert `encode_snapshot`.

    Raises:
        StateMismatchError: Another version, or bytes that are no snapshot.
    """
    try:
        version = _VERSION_DECODER.decode(data).version
        if version == VERSION:
            return _DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise StateMismatchError(f"bidding state of {len(data)} bytes cannot be read: {error}") from None
    raise StateMismatchError(
        f"bidding state has version {version}, this program reads {VERSION}: start the release that wrote it"
    )
