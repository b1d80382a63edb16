from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import msgspec
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, cluster_main, run_main

from datastreamx.clock import ManualClock
from datastreamx.errors import CrashError, StateMismatchError
from datastreamx.snapshots import seal
from operators.async_map import AsyncMap, Executor, async_map
from operators.async_map.snapshot import VERSION, InFlight, Snapshot, SnapshotCodec
from operators.async_map.step import AsyncMapLogic
from tests.integration.crashes import CrashingSource

GOLDEN = Path(__file__).parent / "golden" / "async-map-snapshot-v2.msgpack"
CLOCK = ManualClock()
NOW_MS = CLOCK.now_ms()
FAR_MS = NOW_MS + 600_000
SEED = 20_261_101


class Item(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    box: str = "b"
    deadline_ms: int = FAR_MS

    @property
    def id(self) -> str:
        return f"i{self.number}"


@dataclass
class Remote:
    """What jobs talk to: answers at once, unless an item is gated; a gated one is answered when its gate opens."""

    gated: set[int] = field(default_factory=set)
    seen: list[tuple[int, int]] = field(default_factory=list)
    gates: dict[Any, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    async def ask(self, item: Item, attempt: int, handed_over_ns: int) -> str:
        assert handed_over_ns <= time.perf_counter_ns()
        self.seen.append((item.number, attempt))
        if item.number in self.gated:
            await self.gate(item.number).wait()
        return f"{item.number}/{attempt}"

    def gate(self, number: int) -> asyncio.Event:
        """Each process has its own: an event belongs to a loop."""
        return self.gates[asyncio.get_running_loop(), number]


@dataclass
class Log:
    """A journal: what was logged, as number by number, and where it was read from."""

    numbers: list[int] = field(default_factory=list)
    reads: list[int | None] = field(default_factory=list)
    durable: int | None = None

    def recall(self, key: str, mark: int | None) -> dict[str, int]:
        assert key == "k"
        self.reads.append(mark)
        return {f"i{number}": number for number in self.numbers[0 if mark is None else mark :]}

    def mark(self, key: str) -> int | None:
        assert key == "k"
        return self.durable

    def position_of(self, item: Item) -> int:
        return item.number


class Bench:
    """Terms whose parts a test may replace, and executors that are closed in the end."""

    def __init__(self) -> None:
        self.remote = Remote()
        self.executors: list[Executor[str]] = []

    def executor(self, *, capacity: int = 100, concurrency: int = 100) -> Executor[str]:
        self.executors.append(Executor(capacity=capacity, concurrency=concurrency, clock=CLOCK, name="test"))
        return self.executors[-1]

    def terms(self, *, capacity: int = 100, **changes: Any) -> AsyncMap[Item, str]:
        plain: AsyncMap[Item, str] = AsyncMap(
            executor=self.executor(capacity=capacity),
            fn=self.remote.ask,
            item_type=Item,
            id_of=lambda item: item.id,
            deadline_of=lambda item: item.deadline_ms,
            on_timeout=lambda item, attempt: f"{item.number}/timeout" + (f" {attempt}" if attempt > 1 else ""),
            on_shed=lambda item: f"{item.number}/shed",
        )
        return replace(plain, **changes)

    def logic(self, terms: AsyncMap[Item, str], snapshot: bytes | None = None) -> AsyncMapLogic[Item, str]:
        return AsyncMapLogic(terms, codec(), snapshot)

    def open(self, number: int) -> None:
        """Let the answer to a gated item come; returns when it has been made."""
        made = threading.Event()

        async def work() -> None:
            self.remote.gate(number).set()
            for _ in range(5):
                await asyncio.sleep(0)
            made.set()

        self.executors[-1].run_soon(work())
        assert made.wait(10)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    for executor in made.executors:
        executor.close()


def codec() -> SnapshotCodec[Item]:
    return SnapshotCodec("test.step", Item)


def by_box(item: Item) -> str:
    return item.box


def accept(logic: AsyncMapLogic[Item, str], *items: Item) -> list[str]:
    outputs, discard = logic.on_batch([("k", item) for item in items])
    assert not discard
    return [*outputs]


def notify(logic: AsyncMapLogic[Item, str]) -> list[str]:
    return [*logic.on_notify()[0]]


def drain(logic: AsyncMapLogic[Item, str]) -> list[str]:
    return [*logic.on_eof()[0]]


def in_flight(logic: AsyncMapLogic[Item, str]) -> list[tuple[int, int]]:
    return [(entry.item.number, entry.attempt) for entry in codec().decode(logic.snapshot()).in_flight]


def numbered(*numbers: int, **fields: Any) -> list[Item]:
    return [Item(number=number, **fields) for number in numbers]


def test_every_item_has_one_output_at_the_end_of_input(bench: Bench) -> None:
    logic = bench.logic(bench.terms())
    outputs = accept(logic, *numbered(*range(50)))
    outputs += drain(logic)
    assert sorted(outputs) == sorted(f"{number}/1" for number in range(50))
    assert in_flight(logic) == []


def test_end_of_input_waits_for_deadlines(bench: Bench) -> None:
    bench.remote.gated = {1}
    logic = bench.logic(bench.terms())
    assert accept(logic, Item(number=1, deadline_ms=NOW_MS + 20)) == []
    assert drain(logic) == ["1/timeout"]


def test_item_beyond_capacity_is_shed_at_once(bench: Bench) -> None:
    bench.remote.gated = {1, 2}
    logic = bench.logic(bench.terms(capacity=2))
    assert accept(logic, *numbered(1, 2, 3)) == ["3/shed"]
    assert accept(logic, *numbered(4)) == ["4/shed"]
    assert in_flight(logic) == [(1, 1), (2, 1)]


def test_place_is_free_again_when_the_output_has_left(bench: Bench) -> None:
    bench.remote.gated = {1}
    logic = bench.logic(bench.terms(capacity=1))
    accept(logic, *numbered(1))
    bench.open(1)
    # The output of 1 leaves with this batch, and its place is free for 2.
    assert accept(logic, *numbered(2)) == ["1/1"]
    assert drain(logic) == ["2/1"]


def test_output_that_waits_for_its_predecessor_keeps_its_place(bench: Bench) -> None:
    bench.remote.gated = {1, 2}
    logic = bench.logic(bench.terms(capacity=2, order_of=by_box))
    accept(logic, *numbered(1, 2))
    bench.open(2)
    assert accept(logic, Item(number=3, box="other")) == ["3/shed"]


def test_batches_in_close_succession_do_not_keep_outputs_from_leaving(bench: Bench) -> None:
    bench.remote.gated = {1, 2}
    logic = bench.logic(bench.terms())
    accept(logic, *numbered(1))
    bench.open(1)
    assert accept(logic, *numbered(2)) == ["1/1"]


def test_outputs_leave_as_they_come_about_without_an_order(bench: Bench) -> None:
    bench.remote.gated = {1, 2}
    logic = bench.logic(bench.terms())
    accept(logic, *numbered(1, 2))
    bench.open(2)
    assert notify(logic) == ["2/1"]


def test_output_done_early_waits_for_its_predecessors_and_for_nobody_else(bench: Bench) -> None:
    bench.remote.gated = {1, 2, 3, 4}
    logic = bench.logic(bench.terms(order_of=by_box))
    accept(logic, *numbered(1, 2, 3), Item(number=4, box="other"))
    bench.open(3)
    bench.open(2)
    bench.open(4)
    assert notify(logic) == ["4/1"]
    assert in_flight(logic) == [(1, 1), (2, 1), (3, 1)]
    bench.open(1)
    assert notify(logic) == ["1/1", "2/1", "3/1"]
    assert in_flight(logic) == []


def test_shed_and_settled_outputs_wait_for_their_predecessors(bench: Bench) -> None:
    bench.remote.gated = {1, 5}
    terms = bench.terms(capacity=1, order_of=by_box, settle=lambda item: "3/settled" if item.number == 3 else None)
    logic = bench.logic(terms)
    assert accept(logic, *numbered(1, 2, 3), Item(number=4, box="other")) == ["4/shed"]
    assert in_flight(logic) == [(1, 1), (2, 1), (3, 1)]
    bench.open(1)
    assert notify(logic) == ["1/1", "2/shed", "3/settled"]
    # They gave back what they took: there is one place again, no more.
    assert accept(logic, *numbered(5), Item(number=6, box="other")) == ["6/shed"]
    bench.open(5)
    assert drain(logic) == ["5/1"]


def test_settled_item_takes_no_place_and_is_not_run(bench: Bench) -> None:
    logic = bench.logic(bench.terms(capacity=1, settle=lambda item: "settled" if item.number < 3 else None))
    assert accept(logic, *numbered(1, 2, 3)) == ["settled", "settled"]
    assert drain(logic) == ["3/1"]
    assert bench.remote.seen == [(3, 1)]


def test_every_kind_of_output_gets_a_last_look_when_it_leaves(bench: Bench) -> None:
    async def fails(item: Item, attempt: int, handed_over_ns: int) -> str:
        assert attempt
        assert handed_over_ns
        raise LookupError(item)

    terms = bench.terms(
        capacity=2,
        fn=fails,
        on_error=lambda item, attempt, error: f"{item.number}/{attempt}/{type(error).__name__}",
        on_emit=lambda output, now_ms: f"{output}@{now_ms - NOW_MS}",
        settle=lambda item: "settled" if item.number == 0 else None,
    )
    logic = bench.logic(terms)
    assert accept(logic, Item(number=0), Item(number=1, deadline_ms=0), *numbered(2, 3)) == ["settled@0", "3/shed@0"]
    assert sorted(drain(logic)) == ["1/timeout@0", "2/1/LookupError@0"]


def test_fault_of_the_program_stops_the_flow(bench: Bench) -> None:
    async def fails(*_: Any) -> str:
        raise LookupError

    logic = bench.logic(bench.terms(fn=fails))
    accept(logic, *numbered(1))
    with pytest.raises(CrashError, match="LookupError"):
        drain(logic)


def test_it_asks_to_be_woken_soon_while_something_is_in_flight(bench: Bench) -> None:
    bench.remote.gated = {1}
    logic = bench.logic(bench.terms())
    accept(logic, *numbered(1))
    soon = logic.notify_at()
    bench.open(1)
    assert notify(logic) == ["1/1"]
    late = logic.notify_at()
    assert soon is not None
    assert late is not None
    assert late - soon > timedelta(seconds=30)
    assert late > datetime.now(UTC)


def test_item_that_comes_twice_has_two_outputs(bench: Bench) -> None:
    logic = bench.logic(bench.terms(order_of=by_box))
    accept(logic, *numbered(1, 1, 1))
    assert len(in_flight(logic)) == 3
    assert drain(logic) == ["1/1"] * 3


def test_outputs_of_another_step_with_the_same_keys_and_executor_do_not_mix(bench: Bench) -> None:
    bench.remote.gated = {1, 2}
    terms = bench.terms()
    one, other = bench.logic(terms), bench.logic(terms)
    accept(one, *numbered(1))
    accept(other, *numbered(2))
    bench.open(1)
    bench.open(2)
    assert notify(other) == ["2/1"]
    assert notify(one) == ["1/1"]


def test_item_in_flight_is_issued_again_after_a_crash_with_the_next_attempt(bench: Bench) -> None:
    bench.remote.gated = {7}
    snapshot = None
    for attempt in (1, 2, 3):
        logic = bench.logic(bench.terms(), snapshot)
        if snapshot is None:
            accept(logic, *numbered(7))
        assert in_flight(logic) == [(7, attempt)]
        snapshot = logic.snapshot()
    bench.remote.gated = set()
    assert drain(bench.logic(bench.terms(), snapshot)) == ["7/4"]


def test_item_whose_deadline_passed_during_the_crash_times_out_without_having_run(bench: Bench) -> None:
    bench.remote.gated = {7}
    logic = bench.logic(bench.terms())
    accept(logic, Item(number=7, deadline_ms=NOW_MS + 100))
    bench.open(99)
    assert bench.remote.seen == [(7, 1)]
    later = Executor[str](capacity=1, concurrency=1, clock=ManualClock(NOW_MS + 101), name="later")
    bench.executors.append(later)
    assert drain(bench.logic(bench.terms(executor=later), logic.snapshot())) == ["7/timeout 2"]
    assert bench.remote.seen == [(7, 1)]


def test_items_of_a_snapshot_keep_their_order(bench: Bench) -> None:
    bench.remote.gated = {1, 2}
    first = bench.logic(bench.terms(order_of=by_box))
    accept(first, *numbered(1, 2))
    second = bench.logic(bench.terms(order_of=by_box), first.snapshot())
    bench.open(2)
    accept(second, *numbered(3))
    assert notify(second) == []
    bench.open(1)
    assert drain(second) == ["1/2", "2/2", "3/1"]


def test_items_of_a_snapshot_have_places_whatever_the_capacity(bench: Bench) -> None:
    bench.remote.gated = {1, 2, 3}
    first = bench.logic(bench.terms())
    accept(first, *numbered(1, 2))
    second = bench.logic(bench.terms(capacity=1), first.snapshot())
    assert accept(second, *numbered(3)) == ["3/shed"]
    bench.open(1)
    bench.open(2)
    assert sorted(drain(second)) == ["1/2", "2/2"]


def test_item_settled_on_resume_is_in_the_snapshot_until_it_has_left(bench: Bench) -> None:
    bench.remote.gated = {1}
    first = bench.logic(bench.terms())
    accept(first, *numbered(1))
    second = bench.logic(bench.terms(settle=lambda _: "settled"), first.snapshot())
    assert in_flight(second) == [(1, 2)]
    assert notify(second) == ["settled"]
    assert in_flight(second) == []


def test_item_in_the_journal_is_not_run_again(bench: Bench) -> None:
    bench.remote.gated = {7, 8}
    first = bench.logic(bench.terms(journal=Log()))
    accept(first, *numbered(7, 8))
    snapshot = first.snapshot()
    recalled: list[int] = []
    bench.remote = Remote()
    log = Log([7, 9])
    second = bench.logic(bench.terms(journal=log, on_recalled=lambda item: recalled.append(item.number)), snapshot)
    outputs = accept(second, *numbered(9, 10))
    outputs += drain(second)
    assert sorted(outputs) == ["10/1", "8/2"]
    assert sorted(bench.remote.seen) == [(8, 2), (10, 1)]
    assert recalled == [7, 9]


def test_all_of_the_journal_is_read_without_a_snapshot(bench: Bench) -> None:
    log = Log([1])
    logic = bench.logic(bench.terms(journal=log))
    assert accept(logic, *numbered(1)) == []
    assert drain(logic) == []
    assert log.reads == [None]


def test_snapshot_keeps_the_old_mark_until_all_recalled_items_have_come_again(bench: Bench) -> None:
    def mark(logic: AsyncMapLogic[Item, str]) -> int | None:
        return codec().decode(logic.snapshot()).mark

    log = Log([1], durable=1)
    logic = bench.logic(bench.terms(journal=log))
    accept(logic, *numbered(1))
    assert mark(logic) == 1
    log.numbers += [5, 6, 7]
    log.durable = 4
    resumed = bench.logic(bench.terms(journal=log), logic.snapshot())
    # No snapshot has named the newer mark yet: the log is read from the old one.
    assert log.reads == [None, 4]
    snapshot = msgspec.structs.replace(codec().decode(logic.snapshot()), mark=1)
    resumed = bench.logic(bench.terms(journal=log), codec().encode(snapshot))
    accept(resumed, *numbered(5))
    assert mark(resumed) == 1
    accept(resumed, *numbered(6, 7))
    assert mark(resumed) == 4


def test_recalled_item_that_the_replay_has_passed_is_not_waited_for(bench: Bench) -> None:
    log = Log([3, 4], durable=2)
    logic = bench.logic(bench.terms(journal=log))
    accept(logic, *numbered(4))
    assert codec().decode(logic.snapshot()).mark == 2


def test_items_of_one_position_may_come_again_in_several_batches(bench: Bench) -> None:
    class OnePosition(Log):
        def recall(self, key: str, mark: int | None) -> dict[str, int]:
            return dict.fromkeys(super().recall(key, mark), 5)

        def position_of(self, item: Item) -> int:
            return 5 if item.number < 3 else item.number

    log = OnePosition([1, 2], durable=9)
    logic = bench.logic(bench.terms(journal=log), codec().encode(Snapshot(VERSION, "k", 0, [])))
    assert accept(logic, *numbered(1)) == []
    assert accept(logic, *numbered(2)) == []
    assert drain(logic) == []
    assert codec().decode(logic.snapshot()).mark == 9


def test_mark_stays_while_the_journal_knows_no_newer_one(bench: Bench) -> None:
    log = Log(durable=None)
    snapshot = codec().encode(Snapshot(VERSION, "k", 0, []))
    logic = bench.logic(bench.terms(journal=log), snapshot)
    assert codec().decode(logic.snapshot()).mark == 0


@pytest.mark.parametrize("seed", range(SEED, SEED + 25))
def test_random_crashes_leave_one_output_per_item_in_order(bench: Bench, seed: int) -> None:
    """Crash anywhere, lose all since the last snapshot except what was logged, and go on."""
    rng = random.Random(seed)
    items = [
        Item(number=n, box=f"b{rng.randrange(4)}", deadline_ms=FAR_MS if rng.random() < 0.8 else NOW_MS - 1)
        for n in range(60)
    ]
    log = Log(durable=0)
    snapshot, read_at_snapshot = None, 0
    while True:
        terms = bench.terms(
            capacity=rng.randrange(1, 12),
            journal=log,
            order_of=by_box,
            settle=lambda item: f"{item.number}/settled" if item.number % 11 == 0 else None,
        )
        logic = bench.logic(terms, snapshot)
        read, survives = read_at_snapshot, rng.randrange(1, 25)
        while read < len(items) and survives:
            survives -= 1
            batch = items[read : read + rng.randrange(1, 5)]
            read += len(batch)
            log.numbers += [int(output.split("/")[0]) for output in accept(logic, *batch)]
            if rng.random() < 0.5:
                log.numbers += [int(output.split("/")[0]) for output in notify(logic)]
            log.durable = len(log.numbers)
            if rng.random() < 0.3:
                snapshot, read_at_snapshot = logic.snapshot(), read
        if read == len(items):
            log.numbers += [int(output.split("/")[0]) for output in drain(logic)]
            break
    assert Counter(log.numbers) == Counter(range(60)), f"seed {seed}"
    for box in {item.box for item in items}:
        of_box = [number for number in log.numbers if items[number].box == box]
        assert of_box == sorted(of_box), f"seed {seed}, box {box}"


@pytest.mark.parametrize("epoch", [timedelta(0), timedelta(hours=1)], ids=str)
def test_crash_story_of_a_flow_leaves_one_output_per_item(bench: Bench, epoch: timedelta, tmp_path: Path) -> None:
    init_db_dir(tmp_path, 1)
    items = [("k", item) for item in numbered(*range(40))]
    crashes = [10, 30]

    def is_time(batch: list[Any]) -> bool:
        if batch and crashes and batch[0][1].number == crashes[0]:
            crashes.pop(0)
            return True
        return False

    log = Log()
    for _ in range(3):
        out: list[tuple[str, str]] = []
        flow = Dataflow("story")
        source = CrashingSource(TestingSource(items), is_time)
        terms = bench.terms(journal=Log(list(log.numbers)), order_of=by_box)
        answers = async_map("ask", op.input("in", flow, source), terms)
        op.output("out", answers, TestingSink(out))
        run_main(flow, epoch_interval=epoch, recovery_config=RecoveryConfig(str(tmp_path)))
        log.numbers += [int(output.split("/")[0]) for _, output in out]
    assert crashes == []
    assert log.numbers == list(range(40))


def test_workers_of_one_process_share_an_executor(bench: Bench) -> None:
    items = [(f"k{number % 5}", item) for number, item in enumerate(numbered(*range(500)))]
    out: list[tuple[str, str]] = []
    flow = Dataflow("workers")
    up = op.redistribute("spread", op.input("in", flow, TestingSource(items, batch_size=50)))
    answers = async_map("ask", up, bench.terms(capacity=500))
    op.output("out", answers, TestingSink(out))
    cluster_main(flow, [], 0, worker_count_per_proc=2)
    assert sorted(out) == sorted((key, f"{item.number}/1") for key, item in items)


def golden_snapshot() -> Snapshot[Item]:
    return Snapshot(2, "p003g1", 42, [InFlight(Item(number=7, box="stb-1", deadline_ms=NOW_MS), 2)])


def test_snapshot_bytes_are_an_interface() -> None:
    """A change here means that running deployments cannot resume: raise VERSION and keep a reader for the old one."""
    assert codec().encode(golden_snapshot()) == GOLDEN.read_bytes()
    assert codec().decode(GOLDEN.read_bytes()) == golden_snapshot()


def test_snapshot_from_before_an_item_had_a_field_is_readable() -> None:
    class Grown(Item, frozen=True, kw_only=True):
        consent: str | None = None

    (entry,) = SnapshotCodec[Grown]("test.step", Grown).decode(GOLDEN.read_bytes()).in_flight
    assert (entry.item.number, entry.item.consent) == (7, None)


def test_snapshot_of_another_version_is_refused() -> None:
    with pytest.raises(StateMismatchError, match=r"test\.step has version 9"):
        codec().decode(seal(msgspec.msgpack.encode([9])))


@pytest.mark.parametrize(
    "damage", [b"", seal(b"\x00"), seal(b"\x91"), GOLDEN.read_bytes()[:-1]], ids=["empty", "int", "cut", "end"]
)
def test_bytes_that_are_no_snapshot_are_refused(damage: bytes) -> None:
    with pytest.raises(StateMismatchError, match=r"test\.step"):
        codec().decode(damage)


def test_snapshot_of_a_logic_without_items_is_a_fault(bench: Bench) -> None:
    with pytest.raises(CrashError):
        bench.logic(bench.terms()).snapshot()
