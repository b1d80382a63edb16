"""Topic `ad-decisions`: JSON, key = box id, one record per opportunity; one with ads is the ad push."""

from __future__ import annotations

import msgspec

from datastreamx.errors import CrashError
from datastreamx.model.auction import DecidedAuction, Decision

VERSION = 2
"""Version of the format, in every record as `v`."""


class _Version(msgspec.Struct):
    v: int


_DECODER = msgspec.json.Decoder(Decision)
_ENCODER = msgspec.json.Encoder()
_DECIDED_DECODER = msgspec.json.Decoder(DecidedAuction)
_VERSION_DECODER = msgspec.json.Decoder(_Version)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode_decision(decision: Decision) -> bytes:
    """JSON bytes of a decision."""
    return _ENCODER.encode(decision)


def decode_decision(value: bytes) -> Decision:
    """Decision in a record's value.

    Raises:
        CrashError: The record is not one that this project wrote, or one of another version. The topic is ours alone,
            so going on would hide that a stranger writes pushes.
    """
    try:
        _require_version(value)
        return _DECODER.decode(value)
    except _UNREADABLE as error:
        raise _foreign(value, error) from None


def decode_decided(value: bytes) -> DecidedAuction:
    """Only what the read-back after a crash needs of each record.

    Raises:
        CrashError: See `decode_decision`.
    """
    try:
        _require_version(value)
        return _DECIDED_DECODER.decode(value)
    except _UNREADABLE as error:
        raise _foreign(value, error) from None


def _require_version(value: bytes) -> None:
    """Look at the version first: fields of another one may be missing, or worse, mean something else."""
    found = _VERSION_DECODER.decode(value).v
    if found != VERSION:
        raise CrashError(
            f"the decision log holds a record of version {found}, this program reads {VERSION}: start the release "
            "that writes that version, or an empty topic (topics.decisions)"
        )


def _foreign(value: bytes, error: Exception) -> CrashError:
    # Without a look at the value: it may hold a raw box id, and errors end up in logs.
    return CrashError(
        f"the decision log holds a record of {len(value)} bytes that is no decision: {error}; is another program "
        "writing?"
    )
