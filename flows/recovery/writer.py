"""Write a recovery store that Bytewax resumes from.

Bytewax chooses the file of a (step, key) by a hash of its own. A row in another file is read all the same, but the next
snapshot of its key goes into the right file and the old row is never removed: the resume after that loads both, and the
order of the files decides which one counts. So Bytewax itself writes the store: a flow with the same step ids, whose
states are the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

import bytewax.operators as op
from bytewax._bytewax import cli_main
from bytewax.dataflow import Dataflow, Stream, operator
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig

from datastreamx.errors import CrashError
from flows.panics import ENDS, sqlite_failure
from flows.recovery.part import make_parts

Rows: TypeAlias = Mapping[tuple[str, str], bytes]
"""Value by (step id, state key)."""

_Item: TypeAlias = tuple[tuple[str, str], bytes]


def write_store(directory: Path, flow: str, rows: Rows) -> None:
    """Make the folder `directory`, and in it a store that holds exactly `rows`, as after a clean stop.

    Call it in the main thread; it takes one start of Bytewax (about 0.1 s).

    Args:
        directory: Must not exist; the folder above it must.
        flow: Name of the flow, with which all step ids begin.
        rows: Without any it becomes a store without a snapshot.

    Raises:
        CrashError: The store cannot be written; part of it may be left behind.
    """
    try:
        directory.mkdir(mode=0o700)
        make_parts(directory)
        if rows:
            cli_main(
                _copying(flow, rows),
                epoch_interval=timedelta(days=1),  # one epoch, which the end of the input closes
                recovery_config=RecoveryConfig(str(directory)),
            )
    except ENDS:
        raise
    except BaseException as error:  # a panic of Bytewax's Rust half is no Exception
        told = sqlite_failure(error) or error
        raise CrashError(f"recovery store {directory} cannot be written: {told}. Is the disk full?") from error


def _copying(flow: str, rows: Rows) -> Dataflow:
    """A flow whose last snapshot is `rows`. Its source and sinks have no state, so that nothing else is in it."""
    made = Dataflow(flow)
    up = op.input("the-rows", made, _Feed([*rows.items()]))
    _keep(flow, up, sorted({tuple(step_id.removeprefix(f"{flow}.").split(".")) for step_id, _ in rows}))
    return made


def _keep(scope: str, up: Stream[_Item], paths: Sequence[tuple[str, ...]]) -> None:
    """Steps at `paths`, sorted, below the id `scope`: step ids with dots can only be made by nesting."""
    for name, group in groupby(paths, lambda path: path[0]):
        below = [path[1:] for path in group]
        if below == [()]:
            kept = op.stateful_batch(name, _rows_of(f"{name}-rows", up, f"{scope}.{name}"), _Kept)
            op.output(f"{name}-end", kept, _Nowhere())
        else:
            _nest(name, up, below)


@operator
def _nest(step_id: str, up: Stream[_Item], paths: Sequence[tuple[str, ...]]) -> None:
    _keep(step_id, up, paths)


def _rows_of(name: str, up: Stream[_Item], step_id: str) -> KeyedStream[bytes]:
    def of_step(batch: list[_Item]) -> Iterable[tuple[str, bytes]]:
        return [(key, value) for (step, key), value in batch if step == step_id]

    return op.flat_map_batch(name, up, of_step)


class _Kept(StatefulBatchLogic[bytes, bytes, bytes]):
    """One row."""

    def __init__(self, _: bytes | None) -> None:
        self._value = b""

    def on_batch(self, values: list[bytes]) -> tuple[Iterable[bytes], bool]:
        (self._value,) = values
        return [], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        return self._value


class _Feed(DynamicSource[_Item]):
    def __init__(self, items: list[_Item]) -> None:
        self._items = items

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _FeedPart:  # noqa: ARG002  one worker
        return _FeedPart(self._items)


class _FeedPart(StatelessSourcePartition[_Item]):
    def __init__(self, items: list[_Item]) -> None:
        self._batches = iter([items])

    def next_batch(self) -> Iterable[_Item]:
        return next(self._batches)


class _Nowhere(DynamicSink[object]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> _NowherePart:  # noqa: ARG002  one worker
        return _NowherePart()


class _NowherePart(StatelessSinkPartition[object]):
    def write_batch(self, items: list[object]) -> None:
        pass
