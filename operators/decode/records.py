"""The pure part: one chunk of records in, events and dead letters out."""

from __future__ import annotations

from datastreamx.errors import DeadLetterError
from datastreamx.model.chunk import Chunk, DeadLetter, DecodedChunk, Record
from datastreamx.model.events import BoxEvent
from datastreamx.wire.events import decode_event


def decode_chunk(chunk: Chunk, topic: str, max_clock_skew_ms: int) -> DecodedChunk:
    """Decode all records of a chunk, in order; every record ends in exactly one of the two lists.

    An event whose time is further ahead of its Kafka timestamp than `max_clock_skew_ms` is a dead letter: it would
    drag the watermark of its whole key group into the future and make every other box late.
    """
    records: list[Record] = []
    dead_letters: list[DeadLetter] = []
    positions = zip(chunk.offsets, chunk.timestamps_ms, chunk.keys, chunk.values, strict=True)
    for offset, timestamp_ms, key, value in positions:
        try:
            event = _decode(timestamp_ms, key, value, max_clock_skew_ms)
        except DeadLetterError as error:
            dead_letters.append(
                DeadLetter(error.reason, error.detail, topic, chunk.partition, offset, timestamp_ms, key, value)
            )
        else:
            records.append(Record(offset, timestamp_ms, event))
    return DecodedChunk(chunk.partition, chunk.group, records, dead_letters)


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
