"""Reading back versioned snapshots: MessagePack by position, the version first."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from datastreamx.errors import StateMismatchError

S = TypeVar("S")


class _VersionOnly(msgspec.Struct, array_like=True):
    version: int


_VERSION_DECODER = msgspec.msgpack.Decoder(_VersionOnly)


def decode_versioned(snapshot: bytes, decoder: msgspec.msgpack.Decoder[S], version: int, what: str) -> S:
    """The struct in `snapshot`, whose first field is its version.

    Args:
        snapshot: As the recovery store gave it.
        decoder: Of the struct, which is `array_like`.
        version: The one that this program reads.
        what: What it holds, in the plural, for the message.

    Raises:
        StateMismatchError: Another version, or bytes that are no such snapshot.
    """
    try:
        found = _VERSION_DECODER.decode(snapshot).version
        if found == version:
            return decoder.decode(snapshot)
    except msgspec.DecodeError as error:
        raise StateMismatchError(f"{what} of {len(snapshot)} bytes cannot be read: {error}") from None
    raise StateMismatchError(
        f"{what} have version {found}, this program reads {version}: start the release that wrote it, "
        "or an empty recovery store"
    )
