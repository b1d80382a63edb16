"""Topic `box-events`: JSON, key = box id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from datastreamx.errors import DeadLetterError
from datastreamx.model.events import EVENT_TYPES, BoxEvent

MAX_EVENT_BYTES = 16_384
"""Larger records are dead letters: the largest honest event, with both consent strings, is under 7 KiB."""

_DECODER: msgspec.json.Decoder[BoxEvent] = msgspec.json.Decoder(BoxEvent)
_ENCODER = msgspec.json.Encoder()


class _TypeOnly(msgspec.Struct):
    type: object = None


_TYPE_DECODER = msgspec.json.Decoder(_TypeOnly)


def encode_event(event: BoxEvent) -> bytes:
    """JSON bytes of an event, as a box sends it."""
    return _ENCODER.encode(event)


def decode_event(value: bytes) -> BoxEvent:
    """Event in a record's value.

    Raises:
        DeadLetterError: With reason `oversized`, `malformed` (not JSON), `unknown_type` or `invalid` (a field is
            missing or has a value that no box may send).
    """
    if len(value) > MAX_EVENT_BYTES:
        raise DeadLetterError("oversized", f"{len(value)} bytes, allowed are {MAX_EVENT_BYTES}")
    try:
        return _DECODER.decode(value)
    except msgspec.ValidationError as error:
        raise _rejection(value, error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeadLetterError("malformed", str(error)) from None


def decode_events(values: Sequence[bytes | None]) -> list[BoxEvent] | None:
    """Events in many records' values, or `None` if there is one of which `decode_event` makes no event."""
    present = cast("Sequence[bytes]", values)
    try:
        if max(map(len, present), default=0) > MAX_EVENT_BYTES:
            return None
        return [*map(_DECODER.decode, present)]
    except TypeError:  # A tombstone has no length.
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _rejection(value: bytes, error: msgspec.ValidationError) -> DeadLetterError:
    """Tell an unknown type, which a newer box may send, from a known type with wrong fields."""
    try:
        event_type = _TYPE_DECODER.decode(value).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return DeadLetterError("invalid", str(error))
    if isinstance(event_type, str) and event_type not in EVENT_TYPES:
        return DeadLetterError("unknown_type", f"type {event_type[:64]!r} is none of {', '.join(EVENT_TYPES)}")
    return DeadLetterError("invalid", str(error))
