"""What stands in box-facts, by place."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from confluent_kafka import Message

from datastreamx.wire.facts import decode_facts
from tests.integration.oracle import POSITION

Place = tuple[object, ...]
"""(table, source partition, key group, source offset, ordinal)."""


def places(message: Message) -> set[Place]:
    """Places of the rows of one record."""
    facts = decode_facts(message.value() or b"", message.headers() or [], int(message.partition() or 0))  # type: ignore[arg-type]
    columns = [facts.rows.column(name).to_pylist() for name in POSITION]
    return {(facts.table, *place) for place in zip(*columns, strict=True)}


def newest(messages: Iterable[Message], partitions: Collection[int]) -> dict[tuple[object, object], int]:
    """The highest source offset of every key group of these partitions."""
    found: dict[tuple[object, object], int] = {}
    for message in messages:
        if message.partition() in partitions:
            for _, partition, group, offset, _ in places(message):
                assert isinstance(offset, int)
                found[partition, group] = max(offset, found.get((partition, group), -1))
    return found
