"""Snapshot of a source: the next offset of each partition, as versioned JSON.

The key groups are part of it, although the source itself could do without: all state downstream is keyed by them, and
reading on with another count would give boxes empty state without any error (decision D1).
"""

from __future__ import annotations

import msgspec

from datastreamx.errors import StateMismatchError
from sources.kafka.start import PartitionId

VERSION = 1


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader reads.

    Attributes:
        topics: All read in the same partitions.
        partitions: The partitions that this reader owns, rising.
        partition_count: How many partitions each topic has in all.
        groups_per_partition: Key groups per partition; 0 where the flow has none.
    """

    topics: tuple[str, ...]
    partitions: tuple[int, ...]
    partition_count: int
    groups_per_partition: int

    @property
    def owned(self) -> list[PartitionId]:
        """Every (topic, partition) to read."""
        return [(topic, partition) for topic in self.topics for partition in self.partitions]


class _Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    v: int
    layout: Layout
    offsets: dict[str, dict[int, int]]


class _VersionOnly(msgspec.Struct):
    v: int


def encode_positions(layout: Layout, positions: dict[PartitionId, int]) -> bytes:
    """Bytes for the recovery store.

    Args:
        layout: What the reader reads; a resume has to agree with it.
        positions: Next offset to read of every owned partition.
    """
    offsets: dict[str, dict[int, int]] = {topic: {} for topic in layout.topics}
    for (topic, partition), offset in positions.items():
        offsets[topic][partition] = offset
    return msgspec.json.encode(_Snapshot(v=VERSION, layout=layout, offsets=offsets))


def decode_positions(raw: bytes, layout: Layout) -> dict[PartitionId, int]:
    """Invert `encode_positions`.

    Raises:
        StateMismatchError: Other version, topics, partitions or key groups than `layout`, or no snapshot at all.
    """
    try:
        version = msgspec.json.decode(raw, type=_VersionOnly).v
        if version != VERSION:
            raise StateMismatchError(
                f"the source's snapshot has version {version}, this program reads version {VERSION}; "
                "start the program that wrote it, or move the recovery store away to rebuild it from the log"
            )
        snapshot = msgspec.json.decode(raw, type=_Snapshot)
    except msgspec.DecodeError as error:
        raise StateMismatchError(f"the source's snapshot cannot be read ({error}): {raw[:80]!r}") from None
    if snapshot.layout != layout:
        raise StateMismatchError(
            f"the recovery store was written for {_describe(snapshot.layout)}, but the configuration says "
            f"{_describe(layout)}; change the configuration back"
        )
    positions = {
        (topic, partition): offset
        for topic, offsets in snapshot.offsets.items()
        for partition, offset in offsets.items()
    }
    missing = [f"{topic}[{partition}]" for topic, partition in layout.owned if (topic, partition) not in positions]
    if missing:
        raise StateMismatchError(f"the source's snapshot lacks the offsets of {', '.join(missing)}")
    return positions


def _describe(layout: Layout) -> str:
    topics = " and ".join(layout.topics)
    return (
        f"{topics} with {layout.partition_count} partitions, of them {list(layout.partitions)}, "
        f"and {layout.groups_per_partition} key groups per partition"
    )
