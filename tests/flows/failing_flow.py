"""A flow that fails as it is told: `python -m tests.flows.failing_flow STORE WHERE HOW`."""

from __future__ import annotations

import sys
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink

from datastreamx.cli.output import fail
from datastreamx.errors import DatastreamXError, StaleStoreError
from datastreamx.log import configure_logging
from flows.run import execute, keep_panics_short

REFUSAL = "the store is older than what the flow has done: see the runbook"


class _Step:
    def __init__(self, where: str, how: str) -> None:
        self._where = where
        self._how = how

    def reach(self, where: str) -> None:
        """Fail, if this is where."""
        if where != self._where:
            return
        if self._how == "refusal":
            raise StaleStoreError(REFUSAL)
        raise KeyError("no such key")


class _Numbers(StatefulSourcePartition[int, bytes]):
    def __init__(self) -> None:
        self._next = 0

    def next_batch(self) -> list[int]:
        self._next += 1
        if self._next == 3:
            raise StopIteration
        return [self._next]

    def snapshot(self) -> bytes:
        return b""


class _Source(FixedPartitionedSource[int, bytes]):
    def __init__(self, step: _Step) -> None:
        self._step = step

    def list_parts(self) -> list[str]:
        return ["reader-00"]

    def build_part(self, *_: object) -> _Numbers:
        self._step.reach("build")
        return _Numbers()


def _main(store: Path, where: str, how: str) -> None:
    configure_logging(json=False)
    step = _Step(where, how)

    def reached(number: int) -> int:
        step.reach("operator")
        return number

    flow = Dataflow("failing")
    numbers = op.map("numbers", op.input("source", flow, _Source(step)), reached)
    op.output("sink", numbers, TestingSink([]))
    store.mkdir()
    init_db_dir(store, 1)
    keep_panics_short()
    try:
        execute(flow, RecoveryConfig(str(store)), 100)
    except DatastreamXError as error:
        fail(error)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), *sys.argv[2:])
