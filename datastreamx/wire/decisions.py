"""Topic `ad-decisions`: JSON, key = box id, one record per opportunity; one with a winner is the ad push."""

from __future__ import annotations

import msgspec

from datastreamx.errors import CrashError
from datastreamx.model.auction import DecidedAuction, Decision

_DECODER = msgspec.json.Decoder(Decision)
_ENCODER = msgspec.json.Encoder()
_DECIDED_DECODER = msgspec.json.Decoder(DecidedAuction)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode_decision(decision: Decision) -> bytes:
    """JSON bytes of a decision."""
    return _ENCODER.encode(decision)


def decode_decision(value: bytes) -> Decision:
    """Decision in a record's value.

    Raises:
        CrashError: The record is not one that this project wrote. The topic is ours alone, so going on would hide
            that a stranger writes pushes.
    """
    try:
        return _DECODER.decode(value)
    except _UNREADABLE as error:
        raise _foreign(value, error) from None


def decode_decided(value: bytes) -> DecidedAuction:
    """Only what the read-back after a crash needs of each record.

    Raises:
        CrashError: See `decode_decision`.
    """
    try:
        return _DECIDED_DECODER.decode(value)
    except _UNREADABLE as error:
        raise _foreign(value, error) from None


def _foreign(value: bytes, error: Exception) -> CrashError:
    # Without a look at the value: it may hold a raw box id, and errors end up in logs.
    return CrashError(
        f"the decision log holds a record of {len(value)} bytes that is no decision: {error}; is another program "
        "writing, or a newer release?"
    )
