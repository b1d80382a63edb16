"""The pure part: one chunk of records in, events and dead letters out."""

from __future__ import annotations

from operator import sub

from datastreamx.errors import DeadLetterError
from datastreamx.model.chunk import Chunk, DeadLetter, DecodedChunk
from datastreamx.model.events import BoxEvent
from datastreamx.wire.events import decode_event, decode_events


def decode_chunk(chunk: Chunk, topic: str, max_clock_skew_ms: int) -> DecodedChunk:
    """Decode all records of a chunk, in order; every record ends in exactly one of the two parts.

    An event whose time is further ahead of its Kafka timestamp than `max_clock_skew_ms` is a dead letter: it would
    drag the watermark of its whole key group into the future and make every other box late.
    """
    events = decode_events(chunk.values)
    # Nearly every chunk is sound, so all of it is looked at in one go: 0.35 µs per record against 0.6 one by one.
    if events is not None and _are_sound(chunk, events, max_clock_skew_ms):
        return DecodedChunk(chunk.partition, chunk.group, chunk.offsets, chunk.timestamps_ms, events, [])
    return _decode_one_by_one(chunk, topic, max_clock_skew_ms)


def _are_sound(chunk: Chunk, events: list[BoxEvent], max_clock_skew_ms: int) -> bool:
    times_ms = [event.event_time_ms for event in events]
    keys = [event.box_id.encode() for event in events]
    return keys == chunk.keys and max(map(sub, times_ms, chunk.timestamps_ms), default=0) <= max_clock_skew_ms


def _decode_one_by_one(chunk: Chunk, topic: str, max_clock_skew_ms: int) -> DecodedChunk:
    decoded = DecodedChunk(chunk.partition, chunk.group, [], [], [], [])
    positions = zip(chunk.offsets, chunk.timestamps_ms, chunk.keys, chunk.values, strict=True)
    for offset, timestamp_ms, key, value in positions:
        try:
            event = _decode(timestamp_ms, key, value, max_clock_skew_ms)
        except DeadLetterError as error:
            decoded.dead_letters.append(
                DeadLetter(error.reason, error.detail, topic, chunk.partition, offset, timestamp_ms, key, value)
            )
        else:
            decoded.offsets.append(offset)
            decoded.timestamps_ms.append(timestamp_ms)
            decoded.events.append(event)
    return decoded


def _decode(timestamp_ms: int, key: bytes | None, value: bytes | None, max_clock_skew_ms: int) -> BoxEvent:
    if value is None:
        raise DeadLetterError("no_value", "a tombstone carries no event")
    event = decode_event(value)
    if key is None or key != event.box_id.encode():
        raise DeadLetterError("key_mismatch", "the record key must be the box id, or its state goes astray")
    ahead_ms = event.event_time_ms - timestamp_ms
    if ahead_ms > max_clock_skew_ms:
        raise DeadLetterError("clock_skew", f"the box's clock is {ahead_ms} ms ahead of Kafka's")
    return event
