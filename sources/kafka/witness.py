"""The broker as witness: does a recovery store hold all that its flow has proven to have done? Pure.

Bytewax takes any store for the truth: an old copy, one whose newest part was lost, an empty volume. Going on from
there would load rows a second time, or begin at another place. The group's committed offsets are kept elsewhere, so
they can tell. They are committed only after the snapshot that holds them is durable, and their metadata names that
snapshot: `lineage:taken`. A store that holds less than its witness tells of has lost something.

Where the metadata is missing (the local broker keeps none), the offset alone testifies: a store that stands below what
was proven is old. A foreign store can then not be told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from datastreamx.errors import StaleStoreError
from sources.kafka.start import PartitionId


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Which history of snapshots a partition belongs to, and how far it is.

    Per Kafka partition, because a re-shard brings partitions with different histories together.

    Attributes:
        id: Random, made when the source began without state.
        taken: Snapshots since then.
        instead_of: Lineage that this one knowingly replaced: until the first proof of its own, the witness still tells
            of that one.
        instead_at: By topic, the committed offset that it knowingly went back from, where the broker keeps no metadata;
            likewise until the first proof. Unset, and not in a snapshot, where there is none.
    """

    id: str
    taken: int = 0
    instead_of: str | None = None
    instead_at: dict[str, int] | msgspec.UnsetType = msgspec.UNSET

    def after_snapshot(self, *, is_proven: bool = False) -> Lineage:
        """One snapshot further. `is_proven`: the broker has confirmed an earlier one, and tells of this lineage now."""
        if is_proven:
            return Lineage(id=self.id, taken=self.taken + 1)
        return msgspec.structs.replace(self, taken=self.taken + 1)

    def replaced_at(self, topic: str) -> int | None:
        """Committed offset of `topic` that it knowingly went back from."""
        return None if self.instead_at is msgspec.UNSET else self.instead_at.get(topic)

    @property
    def metadata(self) -> str:
        """What goes with a committed offset."""
        return f"{self.id}:{self.taken}"


class Evidence(NamedTuple):
    """What a committed offset tells of a proven snapshot.

    Attributes:
        offset: Next offset to read that the snapshot held.
        lineage: Lineage of the snapshot; `None` where the metadata is missing or not ours.
        taken: Its number; 0 without a lineage.
    """

    offset: int
    lineage: str | None = None
    taken: int = 0


def parse_evidence(offset: int, metadata: str | None) -> Evidence | None:
    """What was committed; `None` if nothing was (the client gives a negative offset)."""
    if offset < 0:
        return None
    lineage, _, taken = (metadata or "").partition(":")
    if lineage and taken.isdecimal():
        return Evidence(offset, lineage, int(taken))
    return Evidence(offset)


class Held(NamedTuple):
    """What a recovery store holds of a partition.

    Attributes:
        offset: Next offset to read.
        lineage: History of the partition.
        replaced_at: What `Lineage.replaced_at` says of its topic.
    """

    offset: int
    lineage: Lineage
    replaced_at: int | None = None


def complaint(held: Held | None, evidence: Evidence) -> str | None:
    """What is wrong with a store that holds `held` (`None`: nothing), in words; `None` if nothing is."""
    if held is None:
        return f"there is no state, but the flow was seen at offset {evidence.offset}"
    lineage = held.lineage
    if evidence.lineage is None:
        if evidence.offset == held.replaced_at:
            return None
        behind = evidence.offset - held.offset
        return f"it is {behind} records behind what the flow has done" if behind > 0 else None
    if evidence.lineage == lineage.id:
        behind = evidence.taken - lineage.taken
        return f"it is {behind} snapshots behind what the flow has done" if behind > 0 else None
    if evidence.lineage == lineage.instead_of:
        return None
    return f"it is of lineage {lineage.id}, but the flow that ran last is of {evidence.lineage}: another history"


def agree(
    held: Mapping[PartitionId, Held] | None,
    evidence: Mapping[PartitionId, Evidence],
    partitions: tuple[int, ...],
    *,
    accept: bool,
    make_lineage: Callable[[], str],
) -> tuple[dict[int, Lineage], list[str]]:
    """Lineage of each of `partitions` to go on with, and what was accepted knowingly.

    Args:
        held: What the store holds; `None`: the source begins without state.
        evidence: What the broker tells, as far as it tells anything.
        partitions: Numbers of the partitions to read.
        accept: Begin a new lineage wherever store and witness do not agree.
        make_lineage: Makes a new id.

    Raises:
        StaleStoreError: They do not agree.
    """
    complaints: list[str] = []
    replaced: dict[int, dict[str, Evidence]] = {}
    for partition, told in sorted(evidence.items()):
        problem = complaint(None if held is None else held[partition], told)
        if problem is not None:
            topic, number = partition
            complaints.append(f"{topic}[{number}]: {problem}")
            replaced.setdefault(number, {})[topic] = told
    if complaints and not accept:
        raise StaleStoreError(_refusal(complaints, is_gone=held is None))
    known = {} if held is None else {number: one.lineage for (_, number), one in held.items()}
    return {
        number: _begun(make_lineage(), replaced.get(number, {}))
        if held is None or number in replaced
        else known[number]
        for number in partitions
    }, complaints


def _begun(lineage: str, replaced: Mapping[str, Evidence]) -> Lineage:
    return Lineage(
        id=lineage,
        instead_of=next((told.lineage for told in replaced.values() if told.lineage is not None), None),
        instead_at={topic: told.offset for topic, told in replaced.items() if told.lineage is None} or msgspec.UNSET,
    )


def _refusal(complaints: list[str], *, is_gone: bool) -> str:
    others = f" (and {len(complaints) - 1} partitions more)" if len(complaints) > 1 else ""
    what = (
        "the recovery store is empty although the flow ran before: its volume was lost or replaced, "
        "recovery.directory names another folder, or scaling was changed without `datastreamx rescale`"
        if is_gone
        else "the recovery store is not the one that the flow used last: it is an old copy, belongs to another "
        "history, or lost its newest part"
    )
    return (
        f"{what}. {complaints[0]}{others}. To go on from here would do again what was done. Either put a newer backup "
        "back (`datastreamx restore`), or rebuild that of the ads flow from the log (`datastreamx replay`), or accept "
        "the store as it is, with what that repeats or leaves out (`datastreamx run FLOW --accept-store`)"
    )
