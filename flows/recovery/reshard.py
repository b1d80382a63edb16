"""What the stores of a flow hold, shared out to another number of cells, or to one cluster. Pure.

Every row of every store is accounted for: it moves with its Kafka partition, is merged and split anew, or is known to
hold nothing. A row of a step that is not known here stops everything.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from datastreamx.errors import StateMismatchError
from datastreamx.place import Place
from flows.recovery.writer import Rows
from sinks.ad_push.snapshot import decode_acked, encode_acked
from sinks.bigquery.ledger import Segment, merge_segments, read_segments
from sources.kafka.positions import Positions, merge, read_positions, split
from sources.kafka.start import split_among

Mode: TypeAlias = Literal["cells", "cluster"]
Rule: TypeAlias = Literal["source", "keyed", "acked", "segments", "nothing"]
RowId: TypeAlias = tuple[str, str]
"""Step id and state key."""

RULES: dict[str, Rule] = {
    "ads.events": "source",
    "ads.viewing.state": "keyed",
    "ads.bidding.auctions.jobs": "keyed",
    "ads.push": "acked",
    "ads.facts": "nothing",
    "ads.dead_letters": "nothing",
    "warehouse.topics": "source",
    "warehouse.repeats.marks": "keyed",
    "warehouse.decisions.firsts": "keyed",
    "warehouse.impressions.join": "keyed",
    "warehouse.rollups.counts": "keyed",
    "warehouse.bigquery": "segments",
    "notices.topics": "source",
    "notices.repeats.marks": "keyed",
    "notices.decisions.firsts": "keyed",
    "notices.impressions.join": "keyed",
    "notices.send.outbox": "keyed",
    "notices.dead_letters": "nothing",
}
"""How the rows of each step are shared out.

source: positions by reader. keyed: the key begins with its Kafka partition. acked: offsets by partition of one topic.
segments: streams of a table, with rows of any partition. nothing: a sink without state.
"""

_KEY = re.compile(r"p(\d{3,4})(?:g\d+)?")


@dataclass(frozen=True)
class Store:
    """One store.

    Attributes:
        place: Whose it is.
        rows: Newest value of each row; `None` where a step has no state.
    """

    place: Place
    rows: Mapping[RowId, bytes | None]


@dataclass(frozen=True)
class Terms:
    """What the configuration says and a row does not.

    Attributes:
        partitions: `events.partitions`.
        decisions: `topics.decisions`.
    """

    partitions: int
    decisions: str

    def owned(self, place: Place) -> range:
        """Kafka partitions whose state the store at `place` holds."""
        return place.partitions(self.partitions)


@dataclass(frozen=True)
class Tally:
    """Rows of one step that move as they are.

    Attributes:
        crc: Sum of the rows' CRC-32, so that their order does not matter.
    """

    keys: int = 0
    size_bytes: int = 0
    crc: int = 0

    def plus(self, step_id: str, key: str, value: bytes) -> Tally:
        """With one more row."""
        crc = zlib.crc32(value, zlib.crc32(f"{step_id}\0{key}\0".encode()))
        return Tally(self.keys + 1, self.size_bytes + len(value), self.crc + crc)


@dataclass(frozen=True)
class Account:
    """What the stores of a flow hold together, whatever their number: equal before and after a re-shard.

    Attributes:
        moved: Rows that move as they are, by step.
        positions: Next offset and lineage of every partition; `None` without a snapshot.
        acked: Highest acknowledged decision, offset by partition.
        segments: Rows of streams that are not visible yet, sorted, by table.
    """

    moved: dict[str, Tally] = field(default_factory=dict)
    positions: Positions | None = None
    acked: dict[int, int] = field(default_factory=dict)
    segments: dict[str, list[Segment]] = field(default_factory=dict)


def places_with_store(mode: Mode, count: int) -> tuple[Place, ...]:
    """Every cell; of the processes of a cluster the one that keeps the store."""
    return tuple(Place(mode, ordinal, count) for ordinal in range(count if mode == "cells" else 1))


def reshard(stores: Sequence[Store], places: Sequence[Place], terms: Terms) -> tuple[Rows, ...]:
    """Share out what the stores of one flow hold.

    Args:
        stores: All of the flow; none may be left out.
        places: All new places that keep a store.
        terms: See there.

    Returns:
        Rows of each new store, in the order of `places`; none if no old store has any.

    Raises:
        StateMismatchError: A row is of a step that is not known, or of a partition that is not its store's; a partition
            has no position; a snapshot cannot be read.
    """
    made: list[dict[RowId, bytes]] = [{} for _ in places]
    for step_id, rows in _by_step(stores).items():
        for number, key, value in _SHARE[_rule(step_id)](step_id, rows, places, terms):
            made[number][step_id, key] = value
    return tuple(made)


def account(stores: Sequence[Store], terms: Terms) -> Account:
    """What the stores of one flow hold together.

    Raises:
        StateMismatchError: As `reshard`.
    """
    moved: dict[str, Tally] = {}
    positions: Positions | None = None
    acked: dict[int, int] = {}
    segments: dict[str, list[Segment]] = {}
    for step_id, rows in _by_step(stores).items():
        match _rule(step_id):
            case "source":
                positions = _whole(step_id, rows, terms)
            case "keyed":
                tally = Tally()
                for row in rows:
                    _partition(step_id, row, terms)
                    tally = tally.plus(step_id, row.key, row.value)
                moved[step_id] = tally
            case "acked":
                acked = _acked(rows, terms)
            case "segments":
                for row in rows:
                    segments.setdefault(row.key, []).extend(read_segments(row.value, row.key))
            case "nothing":
                pass
    return Account(moved, positions, acked, {table: sorted(found, key=_stream) for table, found in segments.items()})


class _Row(NamedTuple):
    place: Place
    key: str
    value: bytes


_Shares: TypeAlias = Iterator[tuple[int, str, bytes]]
"""Number of a new store, key and value."""


def _rule(step_id: str) -> Rule:
    if step_id not in RULES:
        raise StateMismatchError(
            f"step {step_id} is not known to this program: the store was written by another release, which has to "
            "share it out"
        )
    return RULES[step_id]


def _by_step(stores: Sequence[Store]) -> dict[str, list[_Row]]:
    """Rows with a value. One without must be of a step that is known to have none."""
    found: dict[str, list[_Row]] = defaultdict(list)
    for store in stores:
        for (step_id, key), value in store.rows.items():
            if (_rule(step_id) == "nothing") != (value is None):
                raise StateMismatchError(
                    f"{store.place.store_name(step_id.partition('.')[0])} holds {'no' if value is None else 'a'} state "
                    f"of {step_id} under {key!r}, which this program does not expect: another release wrote it"
                )
            if value is not None:
                found[step_id].append(_Row(store.place, key, value))
    if any(store.rows for store in stores) and "source" not in {RULES[step_id] for step_id in found}:
        raise StateMismatchError("the stores hold state, but no position of the source: they are not complete")
    return found


def _partition(step_id: str, row: _Row, terms: Terms) -> int:
    """Kafka partition of a keyed row."""
    match = _KEY.fullmatch(row.key)
    if match is None or int(match[1]) not in terms.owned(row.place):
        raise StateMismatchError(
            f"the store of {row.place.mode} {row.place.ordinal} of {row.place.count} holds {step_id} of {row.key!r}, "
            "which is not its own: do the stores belong together, and is events.partitions what it was?"
        )
    return int(match[1])


def _whole(step_id: str, rows: Sequence[_Row], terms: Terms) -> Positions:
    whole = merge([read_positions(row.value) for row in rows])
    missing = sorted({*range(terms.partitions)} - {*whole.layout.partitions})
    if missing or whole.layout.partition_count != terms.partitions:
        raise StateMismatchError(
            f"{step_id} has no positions of the partitions {missing}, of {terms.partitions} that events.partitions "
            "says: a cell has not taken a snapshot yet. Start every cell, wait until it reads, stop it, and rescale "
            "again"
        )
    return whole


def _acked(rows: Sequence[_Row], terms: Terms) -> dict[int, int]:
    return {
        partition: offset
        for row in rows
        for partition, offset in decode_acked(row.value, terms.decisions).items()
        if partition in terms.owned(row.place)
    }


def _stream(segment: Segment) -> tuple[str, int, int]:
    return segment.stream, segment.flushed, segment.end


def _owner(partition: int, places: Sequence[Place], terms: Terms) -> int:
    return next(number for number, place in enumerate(places) if partition in terms.owned(place))


def _share_keyed(step_id: str, rows: Sequence[_Row], places: Sequence[Place], terms: Terms) -> _Shares:
    for row in rows:
        yield _owner(_partition(step_id, row, terms), places, terms), row.key, row.value


def _share_source(step_id: str, rows: Sequence[_Row], places: Sequence[Place], terms: Terms) -> _Shares:
    whole = _whole(step_id, rows, terms)
    readers = [
        (number, f"reader-{reader:02d}", msgspec.structs.replace(whole.layout, partitions=share))
        for number, place in enumerate(places)
        for reader, share in enumerate(split_among(terms.owned(place), place.readers))
        if share
    ]
    parts = split(whole, [layout for _, _, layout in readers])
    for (number, key, _), part in zip(readers, parts, strict=True):
        yield number, key, part.seal()


def _share_acked(_: str, rows: Sequence[_Row], places: Sequence[Place], terms: Terms) -> _Shares:
    acked = _acked(rows, terms)
    for number, place in enumerate(places):
        own = {partition: offset for partition, offset in acked.items() if partition in terms.owned(place)}
        yield number, rows[0].key, encode_acked(terms.decisions, own)


def _share_segments(_: str, rows: Sequence[_Row], places: Sequence[Place], terms: Terms) -> _Shares:
    """Rows of a stream may be of any partition of the old cell; who gets the first of these makes all visible."""
    states: dict[tuple[int, str], list[bytes]] = defaultdict(list)
    for row in rows:
        states[_owner(min(terms.owned(row.place)), places, terms), row.key].append(row.value)
    for (number, table), of_table in states.items():
        yield number, table, merge_segments(of_table, table)


def _share_nothing(*_: object) -> _Shares:
    return iter(())


_SHARE: dict[Rule, Callable[[str, Sequence[_Row], Sequence[Place], Terms], _Shares]] = {
    "source": _share_source,
    "keyed": _share_keyed,
    "acked": _share_acked,
    "segments": _share_segments,
    "nothing": _share_nothing,
}
