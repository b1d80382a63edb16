"""A small flow over whole numbers: it sums them under eight keys.

Run it as `python -m tests.flows.toy_flow STORE LAST [PROCESS ADDRESS ADDRESS ...]`, the latter in a cluster.

It tells where it stands at each snapshot, on standard output. `expected` is what its store has to hold.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax._bytewax import cli_main
from bytewax.dataflow import Dataflow, operator
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.recovery import RecoveryConfig

KEYS = 8
SOURCE = ("toy.numbers", "reader-00")


def key_of(number: int) -> str:
    return f"p{number % KEYS:03d}"


def expected(start: int, sums: dict[str, int], now: int) -> dict[tuple[str, str], bytes]:
    """Rows of source and sums when the source has gone from `start` to `now`."""
    after = dict(sums)
    for number in range(start, now):
        after[key_of(number)] = after.get(key_of(number), 0) + number
    return {SOURCE: b"%d" % now} | {("toy.deep.sums", key): b"%d" % value for key, value in after.items()}


class _Numbers(StatefulSourcePartition[tuple[str, int], bytes]):
    def __init__(self, first: int, last: int) -> None:
        self._next = first
        self._last = last

    def next_batch(self) -> Iterable[tuple[str, int]]:
        if self._next == self._last:
            raise StopIteration
        number = self._next
        self._next += 1
        return [(key_of(number), number)]

    def snapshot(self) -> bytes:
        sys.stdout.write(f"{self._next}\n")
        sys.stdout.flush()
        return b"%d" % self._next


class _Source(FixedPartitionedSource[tuple[str, int], bytes]):
    def __init__(self, last: int) -> None:
        self._last = last

    def list_parts(self) -> list[str]:
        return ["reader-00"]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> _Numbers:
        del step_id, for_part
        return _Numbers(int(resume_state or b"0"), self._last)


class _Sum(StatefulBatchLogic[int, int, bytes]):
    def __init__(self, snapshot: bytes | None) -> None:
        self._sum = int(snapshot or b"0")

    def on_batch(self, values: list[int]) -> tuple[Iterable[int], bool]:
        self._sum += sum(values)
        return [self._sum], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        return b"%d" % self._sum


class _SinkPart(StatefulSinkPartition[int, None]):
    def write_batch(self, values: list[int]) -> None:
        pass

    def snapshot(self) -> None:
        pass


class StatelessSink(FixedPartitionedSink[int, None]):
    """A sink of one part that writes nothing and snapshots `None`."""

    def __init__(self, part: str) -> None:
        self._part = part

    def list_parts(self) -> list[str]:
        return [self._part]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _SinkPart:
        del step_id, for_part, resume_state
        return _SinkPart()


@operator
def _deep(step_id: str, up: KeyedStream[int]) -> KeyedStream[int]:  # noqa: ARG001  Bytewax takes it by its name
    return op.stateful_batch("sums", up, _Sum)


def flow(last: int) -> Dataflow:
    made = Dataflow("toy")
    op.output("nowhere", _deep("deep", op.input("numbers", made, _Source(last))), StatelessSink("sink"))
    return made


if __name__ == "__main__":
    cluster = {"process_id": int(sys.argv[3]), "addresses": sys.argv[4:]} if len(sys.argv) > 3 else {}
    cli_main(
        flow(int(sys.argv[2])),
        epoch_interval=timedelta(milliseconds=20),
        recovery_config=RecoveryConfig(str(Path(sys.argv[1]))),
        **cluster,
    )
