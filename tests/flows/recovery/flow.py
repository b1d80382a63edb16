"""A flow as bare as can be, and a way to kill it anywhere: its store is copied while the flow stands still.

Run `python -m tests.flows.recovery.flow STORE WORKERS LAST` for one that is killed for real.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax._bytewax import cli_main
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.recovery import RecoveryConfig

EPOCH = timedelta(milliseconds=20)
KEY_NUMBERS = 7
"""Numbers that each reader has for a key."""
READERS = ("reader-00", "reader-01")

Seen = Callable[[str, str], None]
"""Told of a place in the flow and of what happens there."""


class Numbers(StatefulSourcePartition[tuple[str, int], bytes]):
    def __init__(self, reader: str, resumed: bytes | None, last: int, seen: Seen) -> None:
        self._reader = reader
        self._next = int(resumed or b"0")
        self._last = last
        self._seen = seen
        seen(f"numbers {reader}", f"{resumed!r}")

    def next_batch(self) -> Iterable[tuple[str, int]]:
        self._seen("batch", self._reader)
        if self._next >= self._last:
            raise StopIteration
        self._next += 1
        return [(f"k{self._next // KEY_NUMBERS}", self._next)]

    def next_awake(self) -> datetime:
        return datetime.now(UTC) + timedelta(milliseconds=1)

    def snapshot(self) -> bytes:
        self._seen("snapshot", self._reader)
        return b"%d" % self._next


class Source(FixedPartitionedSource[tuple[str, int], bytes]):
    def __init__(self, last: int, seen: Seen) -> None:
        self._last = last
        self._seen = seen

    def list_parts(self) -> list[str]:
        return [*READERS]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> Numbers:
        del step_id
        return Numbers(for_part, resume_state, self._last, self._seen)


class Count(StatefulBatchLogic[int, int, bytes]):
    """Counts; a key that has had all its numbers forgets itself."""

    def __init__(self, resumed: bytes | None, seen: Seen) -> None:
        self._count = int(resumed or b"0")
        if resumed is not None:
            seen("count", f"{resumed!r}")

    def on_batch(self, values: list[int]) -> tuple[Iterable[int], bool]:
        self._count += len(values)
        return [self._count], self._count >= KEY_NUMBERS * len(READERS)

    def snapshot(self) -> bytes:
        return b"%d" % self._count


class SinkPart(StatefulSinkPartition[int, None]):
    def write_batch(self, values: list[int]) -> None:
        pass

    def snapshot(self) -> None:
        pass


class Sink(FixedPartitionedSink[int, None]):
    def list_parts(self) -> list[str]:
        return ["sink"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> SinkPart:
        del step_id, for_part, resume_state
        return SinkPart()


def run(store: Path, last: int, *, workers: int = 1, seen: Seen = lambda _, __: None) -> None:
    """One execution, until all numbers are read."""
    flow = Dataflow("bare")
    numbers = op.input("numbers", flow, Source(last, seen))
    op.output("sink", op.stateful_batch("counts", numbers, lambda resumed: Count(resumed, seen)), Sink())
    cli_main(flow, workers_per_process=workers, epoch_interval=EPOCH, recovery_config=RecoveryConfig(str(store)))


def copy(store: Path, to: Path) -> None:
    """What is on the disk when a process is killed now: SQLite has given all that it holds to the kernel."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(store, to)


if __name__ == "__main__":

    def tell(place: str, what: str) -> None:
        sys.stdout.write(f"{place} {what}\n")
        sys.stdout.flush()

    run(Path(sys.argv[1]), int(sys.argv[3]), workers=int(sys.argv[2]), seen=tell)
