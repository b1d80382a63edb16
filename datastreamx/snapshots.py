"""Snapshots as they lie in a recovery store: sealed by a checksum, and MessagePack by position, the version first.

SQLite has no checksums of its own: a bit that flips in a value would be state, not an error.
"""

from __future__ import annotations

import zlib
from typing import TypeVar

import msgspec

from datastreamx.errors import DamagedStoreError, StateMismatchError

S = TypeVar("S")


_SEAL_BYTES = 4


def seal(payload: bytes) -> bytes:
    """`payload` behind its CRC-32 (4 bytes, big-endian). Every snapshot of ours goes into the store like this."""
    return zlib.crc32(payload).to_bytes(_SEAL_BYTES, "big") + payload


def unseal(snapshot: bytes, what: str) -> bytes:
    """Invert `seal`.

    Args:
        snapshot: As the recovery store gave it.
        what: What it holds, for the message.

    Raises:
        DamagedStoreError: The checksum is wrong: the store is damaged, or another program wrote it.
    """
    payload = snapshot[_SEAL_BYTES:]
    if len(snapshot) < _SEAL_BYTES or zlib.crc32(payload) != int.from_bytes(snapshot[:_SEAL_BYTES], "big"):
        raise DamagedStoreError(
            f"the snapshot of {what} ({len(snapshot)} bytes) has a wrong checksum: the recovery store is damaged. "
            'What to do depends on the flow: see "Lost or damaged recovery store" in docs/runbook.md'
        )
    return payload


class _VersionOnly(msgspec.Struct, array_like=True):
    version: int


_ENCODER = msgspec.msgpack.Encoder()
_VERSION_DECODER = msgspec.msgpack.Decoder(_VersionOnly)


def encode_versioned(snapshot: msgspec.Struct) -> bytes:
    """Sealed bytes of an `array_like` struct whose first field is its version."""
    return seal(_ENCODER.encode(snapshot))


def decode_versioned(snapshot: bytes, decoder: msgspec.msgpack.Decoder[S], version: int, what: str) -> S:
    """Invert `encode_versioned`.

    Args:
        snapshot: As the recovery store gave it.
        decoder: Of the struct.
        version: The one that this program reads.
        what: What it holds, for the message.

    Raises:
        StateMismatchError: Damaged, of another version, or no such snapshot.
    """
    payload = unseal(snapshot, what)
    try:
        found = _VERSION_DECODER.decode(payload).version
        if found == version:
            return decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise StateMismatchError(f"the snapshot of {what} ({len(snapshot)} bytes) cannot be read: {error}") from None
    raise StateMismatchError(
        f"the snapshot of {what} has version {found}, this program reads {version}: start the release that wrote it, "
        "or rebuild the store (`datastreamx replay`)"
    )


def check_versioned(snapshot: bytes, version: int, what: str) -> None:
    """Raise what `decode_versioned` would, as far as seal and version go."""
    decode_versioned(snapshot, _VERSION_DECODER, version, what)
