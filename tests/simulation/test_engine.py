"""The simulated engine does what Bytewax does: the same flow on both, and the order of the calls compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

from tests.simulation.engine import Engine, Graph, Store

ITEMS = 6


class Diary:
    """Calls in the order in which they were made, each with the epoch in which the source stood."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def note(self, call: str) -> None:
        self.calls.append(call)

    def reached(self, phase: str) -> None:
        """Nobody is killed here."""

    def did(self, what: str) -> None:
        """Not of interest."""


class _Source(FixedPartitionedSource[tuple[str, int], int]):
    def __init__(self, diary: Diary) -> None:
        self._diary = diary

    def list_parts(self) -> list[str]:
        return ["source"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _SourcePart:
        del step_id, for_part
        return _SourcePart(self._diary, resume_state or 0)


class _SourcePart(StatefulSourcePartition[tuple[str, int], int]):
    def __init__(self, diary: Diary, place: int) -> None:
        self._diary = diary
        self._place = place

    def next_batch(self) -> list[tuple[str, int]]:
        if self._place == ITEMS:
            raise StopIteration
        self._place += 1
        self._diary.note(f"item {self._place}")
        return [(f"key{self._place % 2}", self._place)]

    def snapshot(self) -> int:
        self._diary.note("source snapshot")
        return self._place


class _Logic(StatefulBatchLogic[int, int, int]):
    def __init__(self, diary: Diary, state: int | None) -> None:
        self._diary = diary
        self._last = state or 0
        self._due: datetime | None = None

    def on_batch(self, values: list[int]) -> tuple[Iterable[int], bool]:
        self._last = values[-1]
        self._due = datetime.now(UTC) if self._last == 2 else None
        self._diary.note(f"batch {values}")
        return values, StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[Iterable[int], bool]:
        self._due = None
        self._diary.note("timer")
        return [-self._last], StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[int], bool]:
        self._diary.note("end")
        return [], StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        return self._due

    def snapshot(self) -> int:
        self._diary.note(f"snapshot of key{self._last % 2}")
        return self._last


class _Sink(FixedPartitionedSink[int, int]):
    def __init__(self, diary: Diary) -> None:
        self._diary = diary

    def list_parts(self) -> list[str]:
        return ["even", "odd"]

    def part_fn(self, item_key: str) -> int:
        return int(item_key[-1])

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _SinkPart:
        del step_id, resume_state
        self._diary.note(f"build {for_part}")
        return _SinkPart(self._diary, for_part)


class _SinkPart(StatefulSinkPartition[int, int]):
    def __init__(self, diary: Diary, name: str) -> None:
        self._diary = diary
        self._name = name

    def write_batch(self, values: list[int]) -> None:
        self._diary.note(f"{self._name} writes {values}")

    def snapshot(self) -> int:
        self._diary.note(f"snapshot of {self._name}")
        return 0

    def close(self) -> None:
        self._diary.note(f"{self._name} is closed")


def _flow(diary: Diary) -> Dataflow:
    flow = Dataflow("toy")
    items = op.input("items", flow, _Source(diary))
    doubled = op.map_value("same", items, lambda value: value)
    kept = op.stateful_batch("keep", doubled, lambda state: _Logic(diary, state))
    op.output("out", kept, _Sink(diary))
    return flow


def _on_bytewax(diary: Diary, store: Path) -> None:
    init_db_dir(store, 1)
    run_main(_flow(diary), epoch_interval=timedelta(0), recovery_config=RecoveryConfig(str(store)))


def _on_the_model(diary: Diary, seed: int) -> None:
    ends = {"toy.items": _Source(diary), "toy.out": _Sink(diary)}

    # Timers are due in this machine's time; every look at the clock is a second later, so no write is waited for.
    clock = count(int(datetime.now(UTC).timestamp() * 1000) + 1_000_000, 1_000)
    epochs = 0

    def has_emitted() -> bool:
        return len([call for call in diary.calls if call.startswith("item")]) > epochs

    # An epoch for every item, as an interval of zero makes them.
    engine = Engine(Graph(_flow(diary)), ends, Store(), clock.__next__, Random(seed), diary, lambda: not has_emitted())
    engine.start()
    while not engine.has_ended:
        before = engine.epoch
        engine.turn(may_end_epoch=has_emitted())
        epochs += engine.epoch - before


def _certain(calls: list[str]) -> list[str]:
    """What does not depend on when the timer runs: in its own epoch or, while that is being written, in the next."""
    return sorted(call for call in calls if call.split()[0] in {"item", "batch", "build", "end"})


def _facts(calls: list[str]) -> dict[str, Callable[[], bool]]:
    at = calls.index
    return {
        "only keys that were called are snapshotted": lambda: calls.count("snapshot of key0") <= ITEMS // 2 + 2,
        "the state is snapshotted before the sink": lambda: at("snapshot of key1") < at("snapshot of odd"),
        "a sink's part is built when its first item comes": lambda: at("build even") > at("item 2"),
        "the source goes on only after the sink's snapshot": lambda: at("item 2") > at("snapshot of odd"),
        "every key is told of the end": lambda: calls.count("end") == 2,
        "sinks are closed after their last snapshot": lambda: at("odd is closed") > len(calls) - 4,
    }


def test_bytewax_and_the_model_agree_on_what_the_simulation_rests_on(tmp_path: Path) -> None:
    real = Diary()
    _on_bytewax(real, tmp_path)
    wrong = [name for name, holds in _facts(real.calls).items() if not holds()]
    assert not wrong, real.calls
    for seed in range(50):
        model = Diary()
        _on_the_model(model, seed)
        wrong = [name for name, holds in _facts(model.calls).items() if not holds()]
        assert not wrong, (seed, wrong, model.calls)
        assert _certain(model.calls) == _certain(real.calls), seed
