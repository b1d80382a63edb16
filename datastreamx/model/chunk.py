"""Chunks: what the source hands on, one item per key group and poll instead of one per event."""

from __future__ import annotations

import msgspec

from datastreamx.model.events import BoxEvent


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Consecutive records of one key group, in log order. The lists run in parallel.

    Attributes:
        partition: Kafka partition that all records come from.
        group: Key group within the partition.
        offsets: Kafka offset of each record, strictly rising.
        timestamps_ms: Kafka timestamp of each record, milliseconds since the epoch.
        keys: Record keys (the box id), `None` where the producer sent none.
        values: Record values, undecoded; `None` for a tombstone.
    """

    partition: int
    group: int
    offsets: list[int]
    timestamps_ms: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that can never be processed, with its original bytes.

    Attributes:
        reason: Bounded word, see `datastreamx.wire.dead_letters.REASONS`.
        detail: What exactly was wrong, for a human.
        topic: Where the record stood; with `partition` and `offset` it identifies the record, so repeats after a
            replay are recognised.
        key: Original key.
        value: Original bytes.
    """

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


class DecodedChunk(msgspec.Struct, frozen=True):
    """A chunk after decoding: what is usable, in log order, and what is not. The first three lists run in parallel.

    Attributes:
        offsets: Kafka offset of each event, strictly rising.
        timestamps_ms: Kafka timestamp of each event.
    """

    partition: int
    group: int
    offsets: list[int]
    timestamps_ms: list[int]
    events: list[BoxEvent]
    dead_letters: list[DeadLetter]
