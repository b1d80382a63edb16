"""Which rows of which stream may become visible, and which already are. Pure.

A stream's rows pass four marks, each never ahead of the one before::

    acknowledged >= in a snapshot >= in a durable snapshot >= flushed

Only a tick from a source proves that a snapshot is durable. Flushing earlier would show rows that a crash replays into
the next stream: duplicates (decision 0003).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from datastreamx.errors import StateMismatchError
from datastreamx.snapshots import decode_versioned, encode_versioned

VERSION = 2


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Rows `[flushed, end)` of a stream are acknowledged and not known to be visible."""

    stream: str
    flushed: int
    end: int


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    version: int
    parent: str
    segments: tuple[Segment, ...]


_DECODER = msgspec.msgpack.Decoder(_Snapshot)


def _encode(parent: str, segments: Iterable[Segment]) -> bytes:
    return encode_versioned(_Snapshot(VERSION, parent, tuple(segments)))


def _decode(state: bytes, what: str) -> _Snapshot:
    return decode_versioned(state, _DECODER, VERSION, f"the sink for {what}")


def table_of(state: bytes) -> str:
    """Name of the table that a snapshot of `FlushLedger` belongs to.

    Raises:
        StateMismatchError: Damaged, of another version, or no such snapshot.
    """
    return _decode(state, "a table").parent.rpartition("/")[2]


def read_segments(state: bytes, what: str) -> tuple[Segment, ...]:
    """Segments in a snapshot of `FlushLedger`; `what` names it in errors.

    Raises:
        StateMismatchError: Written by another version, or no such snapshot.
    """
    return _decode(state, what).segments


def merge_segments(states: Sequence[bytes], what: str) -> bytes:
    """One snapshot with the segments of several, at least one, of the same table; `what` names them in errors.

    Every stream must be in one of them only: who holds a segment makes its rows visible.

    Raises:
        StateMismatchError: They belong to several tables, or two name the same stream, or one cannot be read.
    """
    snapshots = [_decode(state, what) for state in states]
    parents = sorted({snapshot.parent for snapshot in snapshots})
    if len(parents) > 1:
        raise StateMismatchError(f"The states of the sinks for {what} belong to several tables: {', '.join(parents)}")
    segments = [segment for snapshot in snapshots for segment in snapshot.segments]
    streams = [segment.stream for segment in segments]
    twice = sorted({stream for stream in streams if streams.count(stream) > 1})
    if twice:
        raise StateMismatchError(f"Two states of the sink for {what} hold the same streams: {', '.join(twice)}")
    return _encode(parents[0], segments)


class FlushTarget(NamedTuple):
    """Rows below `end` of `stream` may become visible."""

    stream: str
    end: int


@dataclass(slots=True)
class _Marks:
    acked: int = 0
    snapshotted: int = 0
    durable: int = 0
    flushed: int = 0
    is_flushing: bool = False
    is_closed: bool = False
    is_forgotten: bool = False


class FlushLedger:
    """Marks of all streams of one table. `parent` names the table as in `projects/P/datasets/D/tables/T`."""

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._streams: dict[str, _Marks] = {}
        self._done: list[str] = []

    def restore(self, state: bytes) -> None:
        """Take over the segments of a snapshot from which the flow resumes; that it exists proves them durable.

        Raises:
            StateMismatchError: Written by another version or for another table.
        """
        snapshot = _decode(state, self._parent)
        if snapshot.parent != self._parent:
            raise StateMismatchError(
                f"The recovery store belongs to {snapshot.parent}, the configuration names {self._parent}: "
                "correct `bigquery.project` and `bigquery.dataset`, or start with an empty recovery store"
            )
        for stream, flushed, end in ((s.stream, s.flushed, s.end) for s in snapshot.segments):
            self._streams[stream] = _Marks(end, end, end, flushed, is_closed=True)

    def open(self, stream: str) -> None:
        """Note a stream that was just created."""
        self._streams[stream] = _Marks()

    def acked(self, stream: str, end: int) -> None:
        """Note that BigQuery holds all rows below `end`."""
        self._streams[stream].acked = end

    def close(self, stream: str) -> None:
        """Note that nothing more will be appended to the stream."""
        self._streams[stream].is_closed = True

    def is_visible(self, stream: str) -> bool:
        """Whether every acknowledged row of the stream is visible."""
        marks = self._streams[stream]
        return marks.flushed == marks.acked

    def snapshot(self) -> bytes:
        """All segments that are not known to be visible; call it when everything is acknowledged."""
        segments = []
        for stream, marks in self._streams.items():
            marks.snapshotted = marks.acked
            if marks.flushed < marks.acked:
                segments.append(Segment(stream, marks.flushed, marks.acked))
            elif marks.is_closed:
                marks.is_forgotten = True
        return _encode(self._parent, segments)

    def prove(self) -> None:
        """The last snapshot is durable: its rows may be flushed, streams that it no longer names finalized.

        A stream is finalized only now because a resume from an older snapshot would flush it again.
        """
        for stream, marks in list(self._streams.items()):
            marks.durable = marks.snapshotted
            if marks.is_forgotten:
                del self._streams[stream]
                self._done.append(stream)

    def begin_flushes(self) -> Iterable[FlushTarget]:
        """Flushes to start now; at most one per stream is under way."""
        targets = []
        for stream, marks in self._streams.items():
            if marks.durable > marks.flushed and not marks.is_flushing:
                marks.is_flushing = True
                targets.append(FlushTarget(stream, marks.durable))
        return targets

    def flushed(self, target: FlushTarget) -> int:
        """Note that a flush succeeded; returns the number of rows that it made visible."""
        marks = self._streams[target.stream]
        rows = target.end - marks.flushed
        marks.flushed = target.end
        marks.is_flushing = False
        return rows

    def flush_failed(self, target: FlushTarget) -> None:
        """Note that a flush has to be tried again."""
        self._streams[target.stream].is_flushing = False

    def take_done(self) -> list[str]:
        """Streams to finalize; each is named once."""
        done, self._done = self._done, []
        return done
