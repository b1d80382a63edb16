"""Bugs on purpose: each is caught, or the checker is worth nothing. Each breaks the product where it is entered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import msgspec

from datastreamx.model.auction import Decision
from flows.recovery import reshard
from operators.async_map.snapshot import SnapshotCodec
from operators.bidding.house import AuctionHouse
from operators.bidding.memory import DecidedMemory
from operators.decisions.firsts import FirstWins
from operators.notices.outbox import Outbox
from operators.notices.step import NoticesLogic
from operators.repeats.marks import HighWaterMarks
from sinks.bigquery.ledger import FlushLedger
from sinks.bigquery.loader import TableLoader
from sinks.bigquery.stream import AppendStream
from sinks.kafka.producer import SettlingProducer
from tests.simulation.engine import Store
from tests.simulation.history import History, Options, Plant
from tests.simulation.supervised import Supervised


def _lossy_sink(_: History) -> AbstractContextManager[object]:
    """What was not acknowledged when a connection broke is taken for written."""
    original = AppendStream.on_connection_lost

    def forget(stream: AppendStream) -> None:
        was_in_flight = stream._in_flight
        original(stream)
        if was_in_flight and stream._unacked and not stream.must_roll:
            lost = stream._unacked.popleft()
            for entry in stream._unacked:
                entry.offset -= lost.block.rows.num_rows
            stream._end -= lost.block.rows.num_rows

    return patch.object(AppendStream, "on_connection_lost", forget)


def _early_flush(_: History) -> AbstractContextManager[object]:
    """Any item after a snapshot is taken for a proof that it is durable, also one from a timer."""
    original = TableLoader.write

    def write(loader: TableLoader, rows: Any) -> None:
        loader.tick()
        original(loader, rows)

    return patch.object(TableLoader, "write", write)


@contextmanager
def _stale_key(history: History) -> Iterator[None]:
    """One key group comes back as it was an epoch or more ago; the source and everything else do not."""

    def restore(cell: Supervised) -> None:
        keys = sorted(key for step, key in cell.store.values if step == "ads.viewing.state")
        older = [values for values in cell.store.history for key in keys[:1] if ("ads.viewing.state", key) in values]
        if older:
            place = ("ads.viewing.state", keys[0])
            cell.store.values[place] = older[0][place]

    history.on_start.append(restore)
    yield


def _no_read_back(_: History) -> AbstractContextManager[object]:
    """The decision log is not read at the start."""
    return patch.object(DecidedMemory, "recall", lambda *_: {})


def _marks_forgotten(_: History) -> AbstractContextManager[object]:
    """High-water marks are not restored."""

    def forget(marks: HighWaterMarks, _: bytes | None = None) -> None:
        marks._marks = {}

    return patch.object(HighWaterMarks, "__init__", forget)


def _firsts_forgotten(_: History) -> AbstractContextManager[object]:
    """Every record of an auction is taken for the first."""
    return patch.object(FirstWins, "is_first", lambda *_: True)


def _flights_forgotten(_: History) -> AbstractContextManager[object]:
    """Auctions under way are not in the snapshot."""
    original = SnapshotCodec.encode
    return patch.object(
        SnapshotCodec,
        "encode",
        lambda codec, snapshot: original(codec, msgspec.structs.replace(snapshot, in_flight=[])),
    )


def _unsettled(_: History) -> AbstractContextManager[object]:
    """Snapshots do not wait for the brokers' acknowledgements."""
    return patch.object(SettlingProducer, "settle", SettlingProducer.poll)


def _unacknowledged(_: History) -> AbstractContextManager[object]:
    """Snapshots do not wait for BigQuery's acknowledgements."""
    return patch.object(TableLoader, "_wait_for_acks", lambda *_: None)


def _double_segments(_: History) -> AbstractContextManager[object]:
    """A re-shard hands the unflushed rows of a stream to every new cell."""

    def share(_: str, rows: Iterable[Any], places: Iterable[Any], __: object) -> Iterator[tuple[int, str, bytes]]:
        for number, _place in enumerate(places):
            for row in rows:
                yield number, row.key, row.value

    return patch.dict(reshard._SHARE, {"segments": share})


def _lost_segments(_: History) -> AbstractContextManager[object]:
    """A re-shard forgets the unflushed rows of streams."""
    return patch.dict(reshard._SHARE, {"segments": reshard._share_nothing})


def _notice_unarmed(_: History) -> AbstractContextManager[object]:
    """Notices are sent as they come, before it is durable that they may have been."""
    original = NoticesLogic.on_batch

    def on_batch(logic: NoticesLogic, values: list[Any]) -> Any:
        result = original(logic, values)
        logic._outbox._arm(logic._ports.clock.now_ms())
        logic._send(logic._outbox.tick())
        return result

    return patch.object(NoticesLogic, "on_batch", on_batch)


def _notice_again(_: History) -> AbstractContextManager[object]:
    """After a crash a notice that may have been sent is sent again."""
    original = Outbox._restore

    def restore(outbox: Outbox, snapshot: Any) -> None:
        entries = [
            entry if entry.verdict is not None else type(entry)(entry.notice, entry.attempts, entry.due_ms, False)
            for entry in snapshot.entries
        ]
        original(outbox, msgspec.structs.replace(snapshot, entries=entries))

    return patch.object(Outbox, "_restore", restore)


def _late_push(_: History) -> AbstractContextManager[object]:
    """An auction that took too long is pushed all the same."""

    def finish(house: AuctionHouse, decision: Decision, now_ms: int) -> Decision:
        del house
        return msgspec.structs.replace(decision, decided_ms=max(decision.decided_ms, now_ms))

    return patch.object(AuctionHouse, "finish", finish)


def _early_finalize(_: History) -> AbstractContextManager[object]:
    """A stream is finalized when it is visible, not when no snapshot names it any more."""
    original = FlushLedger.snapshot

    def snapshot(ledger: FlushLedger) -> bytes:
        state = original(ledger)
        ledger._done += [name for name, marks in ledger._streams.items() if marks.is_closed]
        return state

    return patch.object(FlushLedger, "snapshot", snapshot)


def _unfinished_epoch(_: History) -> AbstractContextManager[object]:
    """Rows of an epoch that never ended are left in the store, and the next one takes them for its own."""
    return patch.object(Store, "open", lambda _: None)


PLANTS: dict[str, Plant] = {
    "lossy sink": _lossy_sink,
    "early flush": _early_flush,
    "stale key group": _stale_key,
    "no read-back": _no_read_back,
    "marks forgotten": _marks_forgotten,
    "firsts forgotten": _firsts_forgotten,
    "flights forgotten": _flights_forgotten,
    "acknowledged before settled": _unsettled,
    "BigQuery not waited for": _unacknowledged,
    "double segments after a re-shard": _double_segments,
    "lost segments after a re-shard": _lost_segments,
    "notice sent before it is armed": _notice_unarmed,
    "notice sent again after a crash": _notice_again,
    "late push": _late_push,
    "early finalize": _early_finalize,
    "rows of an unfinished epoch": _unfinished_epoch,
}
"""By name."""

_USUAL = Options(crashes=(5, 7), events_per_crash=12)

_UNUSUAL = {
    "early flush": replace(_USUAL, phases=("commit",)),
    "double segments after a re-shard": replace(_USUAL, phases=("running", "durable")),
    "rows of an unfinished epoch": replace(
        _USUAL, crashes=(8, 12), phases=("snapshot", "commit", "durable"), epochs_ms=(60, 300)
    ),
}
"""Where processes die, and how often they snapshot, to bring a bug to light that needs luck otherwise."""


def planted(name: str) -> Options:
    """How histories with this bug are run: with more crashes than usual."""
    return replace(_UNUSUAL.get(name, _USUAL), plant=PLANTS[name])
