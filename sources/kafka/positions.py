"""Snapshot of a source: the next offset and the lineage of each partition, as versioned and sealed JSON.

The key groups are part of it, although the source itself could do without: all state downstream is keyed by them, and
reading on with another count would give boxes empty state without any error (decision 0001).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from datastreamx.errors import StateMismatchError
from datastreamx.snapshots import seal, unseal
from sources.kafka.start import PartitionId
from sources.kafka.witness import Held, Lineage

VERSION = 2


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

    def is_kin_of(self, other: Layout) -> bool:
        """Whether both read the same topics by the same counts, whichever partitions they own."""
        return msgspec.structs.replace(self, partitions=other.partitions) == other


class Positions(msgspec.Struct, frozen=True, kw_only=True):
    """Where a reader stands.

    Attributes:
        layout: What it reads; a resume has to agree with it.
        offsets: Next offset to read by topic and partition.
        lineages: History of each partition, see `witness`.
    """

    layout: Layout
    offsets: dict[str, dict[int, int]]
    lineages: dict[int, Lineage]

    @classmethod
    def of(cls, layout: Layout, offsets: dict[PartitionId, int], lineages: dict[int, Lineage]) -> Positions:
        """From the offsets of every owned partition."""
        by_topic: dict[str, dict[int, int]] = {topic: {} for topic in layout.topics}
        for (topic, partition), offset in offsets.items():
            by_topic[topic][partition] = offset
        return cls(layout=layout, offsets=by_topic, lineages=lineages)

    @property
    def next_offsets(self) -> dict[PartitionId, int]:
        """Next offset to read of every owned partition."""
        return {(topic, number): self.offsets[topic][number] for topic, number in self.layout.owned}

    @property
    def held(self) -> dict[PartitionId, Held]:
        """What the witness is asked about."""
        return {
            (topic, number): Held(offset, self.lineages[number], self.lineages[number].replaced_at(topic))
            for (topic, number), offset in self.next_offsets.items()
        }

    def seal(self) -> bytes:
        """Bytes for the recovery store."""
        return seal(msgspec.json.encode({"v": VERSION, **msgspec.structs.asdict(self)}))

    def for_layout(self, layout: Layout) -> Positions:
        """The part of it that a reader of `layout` needs.

        Raises:
            StateMismatchError: `layout` reads something else, or partitions that are not here.
        """
        if not layout.is_kin_of(self.layout):
            raise StateMismatchError(
                f"the source's snapshots were written for {_describe(self.layout)}; they cannot be cut for "
                f"{_describe(layout)}"
            )
        missing = sorted({*layout.partitions} - {*self.layout.partitions})
        if missing:
            raise StateMismatchError(f"the source's snapshots lack the partitions {missing}: a store is missing")
        return Positions(
            layout=layout,
            offsets={topic: {p: self.offsets[topic][p] for p in layout.partitions} for topic in layout.topics},
            lineages={p: self.lineages[p] for p in layout.partitions},
        )


class _VersionOnly(msgspec.Struct):
    v: int


def read_positions(raw: bytes) -> Positions:
    """Invert `Positions.seal`, whatever the layout.

    Raises:
        StateMismatchError: Damaged, of another version, or not complete.
    """
    payload = unseal(raw, "the source")
    try:
        version = msgspec.json.decode(payload, type=_VersionOnly).v
        if version != VERSION:
            raise StateMismatchError(
                f"the source's snapshot has version {version}, this program reads version {VERSION}; "
                "start the program that wrote it, or move the recovery store away to rebuild it from the log"
            )
        positions = msgspec.json.decode(payload, type=Positions)
    except msgspec.DecodeError as error:
        raise StateMismatchError(f"the source's snapshot cannot be read ({error}): {payload[:80]!r}") from None
    missing = [
        f"{topic}[{number}]"
        for topic, number in positions.layout.owned
        if number not in positions.offsets.get(topic, {}) or number not in positions.lineages
    ]
    if missing:
        raise StateMismatchError(f"the source's snapshot lacks the offset or the lineage of {', '.join(missing)}")
    return positions


def decode_positions(raw: bytes, layout: Layout) -> Positions:
    """Invert `Positions.seal` for a reader of `layout`.

    Raises:
        StateMismatchError: Damaged, or of another version, topics, partitions or key groups than `layout`.
    """
    positions = read_positions(raw)
    if positions.layout != layout:
        raise StateMismatchError(
            f"the recovery store was written for {_describe(positions.layout)}, but the configuration says "
            f"{_describe(layout)}; change the configuration back, or share the partitions out anew with "
            "`datastreamx rescale`"
        )
    return positions


def merge(parts: Sequence[Positions]) -> Positions:
    """All positions of a flow as if one reader had read everything; `parts` is not empty.

    Raises:
        StateMismatchError: They read different topics, or two of them the same partition.
    """
    first = parts[0]
    partitions: list[int] = []
    for part in parts:
        if not part.layout.is_kin_of(first.layout):
            raise StateMismatchError(
                "the source's snapshots do not belong together: one was written for "
                f"{_describe(first.layout)}, another one for {_describe(part.layout)}"
            )
        partitions += part.layout.partitions
    twice = sorted({one for one in partitions if partitions.count(one) > 1})
    if twice:
        raise StateMismatchError(f"two of the source's snapshots hold the partitions {twice}: one of them is old")
    return Positions(
        layout=msgspec.structs.replace(first.layout, partitions=tuple(sorted(partitions))),
        offsets={
            topic: {number: offset for part in parts for number, offset in part.offsets[topic].items()}
            for topic in first.layout.topics
        },
        lineages={number: lineage for part in parts for number, lineage in part.lineages.items()},
    )


def split(whole: Positions, layouts: Iterable[Layout]) -> list[Positions]:
    """Cut `whole` for new readers, in their order.

    Raises:
        StateMismatchError: The readers do not share the partitions of `whole` out exactly.
    """
    parts = [whole.for_layout(layout) for layout in layouts]
    together = sorted(number for part in parts for number in part.layout.partitions)
    if together != sorted(whole.layout.partitions):
        raise StateMismatchError(
            f"the new readers would read the partitions {together}, the stores hold {sorted(whole.layout.partitions)}"
        )
    return parts


def _describe(layout: Layout) -> str:
    topics = " and ".join(layout.topics)
    return (
        f"{topics} with {layout.partition_count} partitions, of them {list(layout.partitions)}, "
        f"and {layout.groups_per_partition} key groups per partition"
    )
