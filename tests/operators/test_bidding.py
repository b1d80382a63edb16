from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import msgspec
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, run_main
from prometheus_client import REGISTRY

from datastreamx.acks import AckedOffsets
from datastreamx.clock import ManualClock
from datastreamx.model.auction import AggregatorOutcome, DecidedAuction, Decision, Opportunity, Outcome, WinningAd
from datastreamx.model.keygroup import KeyGroup
from operators.async_map import Executor
from operators.async_map.snapshot import InFlight, Snapshot, SnapshotCodec
from operators.async_map.step import AsyncMapLogic
from operators.bidding import bidding
from operators.bidding.memory import LESSONS, DecidedMemory
from operators.bidding.step import BiddingPorts, auction_terms
from tests.builders import T0, opportunity
from tests.integration.crashes import CrashingSource

GOLDEN = Path(__file__).parent / "golden" / "bidding-auctions-v2.msgpack"
KEY = KeyGroup(0, 0).key
CODEC: SnapshotCodec[Opportunity] = SnapshotCodec("bidding", Opportunity)

Auctions = AsyncMapLogic[Opportunity, Decision]


class FakeHouse:
    """Every auction is won at once; or never, if `silent`; or raises, if `broken`."""

    def __init__(self, clock: ManualClock, *, silent: bool = False, broken: bool = False) -> None:
        self.clock = clock
        self.silent = silent
        self.broken = broken
        self.asked: list[tuple[int, int]] = []
        self.gate = asyncio.Event()

    async def auction(self, found: Opportunity, attempt: int, handed_over_ns: int) -> Decision:
        assert handed_over_ns > 0
        self.asked.append((found.offset, attempt))
        if self.silent:
            await self.gate.wait()
        if self.broken:
            raise ZeroDivisionError
        ad = WinningAd(
            push_id="p", aggregator="alpha", bid_id="b", ad_id="ad-1", price_micros=2_500_000, currency="USD"
        )
        return msgspec.structs.replace(self._decision(found, Outcome.WON, attempt), status="won", ads=(ad,))

    def undecided(self, found: Opportunity, reason: Outcome, attempt: int = 1) -> Decision:
        decision = self._decision(found, reason, attempt)
        return msgspec.structs.replace(decision, status="expired" if reason is Outcome.EXPIRED else "shed")

    def failed(self, found: Opportunity, attempt: int, error: Exception) -> Decision:
        assert isinstance(error, ZeroDivisionError)
        return self._decision(found, Outcome.ERROR, attempt)

    def finish(self, decision: Decision, now_ms: int) -> Decision:
        if decision.ads and now_ms > decision.deadline_ms:
            return msgspec.structs.replace(decision, status="expired", ads=())
        return decision

    def _decision(self, found: Opportunity, code: Outcome, attempt: int = 1) -> Decision:
        shared = set(found.__struct_fields__) & set(Decision.__struct_fields__)
        fields: dict[str, Any] = {name: getattr(found, name) for name in shared}
        outcome = AggregatorOutcome(
            aggregator="alpha", code=code, called=code is Outcome.WON, propensity=1.0, attempt=attempt, latency_us=7_000
        )
        return Decision(
            decided_ms=self.clock.now_ms(), status="no_bid", outcomes=(outcome,), auction_us=9_000, **fields
        )


@dataclass
class _Log:
    """The decision log, as a test wants it; notes where it was read from."""

    decided: list[DecidedAuction] = field(default_factory=list)
    reads: list[tuple[int, int | None]] = field(default_factory=list)

    def read_back(self, partition: int, from_offset: int | None) -> list[DecidedAuction]:
        self.reads.append((partition, from_offset))
        return self.decided


@dataclass
class _Process:
    """One process: what a test looks into, and what it hands to the operator."""

    house: FakeHouse
    acked: AckedOffsets
    learned: list[str]
    ports: BiddingPorts

    def logic(self, snapshot: bytes | None = None) -> Auctions:
        return AsyncMapLogic(auction_terms(self.ports), CODEC, snapshot)

    def open(self) -> None:
        """Let the auctions of a silent house end; returns when they have."""
        ended = threading.Event()

        async def work() -> None:
            self.house.gate.set()
            for _ in range(5):
                await asyncio.sleep(0)
            ended.set()

        self.ports.executor.run_soon(work())
        assert ended.wait(10)


Start = Callable[..., _Process]


@pytest.fixture
def start() -> Iterator[Start]:
    executors: list[Executor[Decision]] = []

    def start_one(*, log: _Log | None = None, capacity: int = 50, concurrency: int = 50, **house: bool) -> _Process:
        clock, acked, learned = ManualClock(T0), AckedOffsets(), list[str]()
        executor = Executor[Decision](capacity=capacity, concurrency=concurrency, clock=clock, name="bidding-test")
        executors.append(executor)
        made = FakeHouse(clock, **house)
        memory = DecidedMemory(log or _Log(), acked, lambda entry: learned.append(entry.auction_id))
        return _Process(made, acked, learned, BiddingPorts(made, executor, memory))

    yield start_one
    for executor in executors:
        executor.close()


def fresh(number: int = 0, *, budget_ms: int = 60_000, **changes: Any) -> Opportunity:
    fields = {"auction_id": f"{number:032x}", "opportunity_ms": T0, "deadline_ms": T0 + budget_ms}
    return opportunity(**{**fields, "offset": number, **changes})


def decided(auction: str, group: int, offset: int) -> DecidedAuction:
    return DecidedAuction(auction, group, offset, "ch1")


def accept(logic: Auctions, *opportunities: Opportunity) -> list[Decision]:
    return [*logic.on_batch([(KEY, found) for found in opportunities])[0]]


def run_logic(logic: Auctions, *opportunities: Opportunity) -> list[Decision]:
    return [*accept(logic, *opportunities), *logic.on_eof()[0]]


def mark(logic: Auctions) -> int | None:
    return CODEC.decode(logic.snapshot()).mark


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_every_opportunity_has_its_decision(start: Start) -> None:
    decisions = run_logic(start().logic(), *(fresh(n) for n in range(20)))
    assert [decision.offset for decision in decisions] == list(range(20))
    assert {decision.status for decision in decisions} == {"won"}


def test_expired_opportunity_is_decided_without_a_call(start: Start) -> None:
    process = start()
    decisions = run_logic(process.logic(), fresh(1, expired=True), fresh(2, budget_ms=-5_000))
    assert [decision.status for decision in decisions] == ["expired", "expired"]
    assert process.house.asked == []


def test_auction_that_has_no_turn_before_its_deadline_expires(start: Start) -> None:
    process = start(concurrency=1, silent=True)
    logic = process.logic()
    accept(logic, fresh(1, box_id="stb-1"), fresh(2, box_id="stb-2", budget_ms=20))
    decisions: list[Decision] = []
    while not decisions:
        decisions += logic.on_notify()[0]
    assert [(decision.offset, decision.status) for decision in decisions] == [(2, "expired")]
    assert process.house.asked == [(1, 1)]


def test_full_house_sheds_with_a_code(start: Start) -> None:
    process = start(capacity=3, silent=True)
    logic = process.logic()
    shed = accept(logic, *(fresh(n, box_id=f"stb-{n}") for n in range(5)))
    assert [(decision.offset, decision.status) for decision in shed] == [(3, "shed"), (4, "shed")]
    assert [outcome.code for outcome in shed[0].outcomes] == [Outcome.SHED]
    process.open()
    assert [decision.status for decision in logic.on_notify()[0]] == ["won"] * 3


def test_auctions_take_turns(start: Start) -> None:
    process = start(concurrency=2, silent=True)
    logic = process.logic()
    accept(logic, *(fresh(n) for n in range(6)))
    process.ports.executor.run_soon(asyncio.sleep(0))
    while len(process.house.asked) < 2:
        logic.on_notify()
    assert process.house.asked == [(0, 1), (1, 1)]
    process.open()
    assert len(run_logic(logic, fresh(6))) == 7


def test_place_is_free_again_after_the_decision(start: Start) -> None:
    logic = start(capacity=1).logic()
    assert [run_logic(logic, fresh(n))[0].status for n in range(3)] == ["won", "won", "won"]


def test_decisions_of_a_box_leave_in_the_order_of_its_opportunities(start: Start) -> None:
    process = start(capacity=1, silent=True)
    logic = process.logic()
    held = accept(logic, fresh(1), fresh(2), fresh(3, expired=True), fresh(4, box_id="stb-2"))
    assert [decision.offset for decision in held] == [4]
    process.open()
    assert [decision.offset for decision in logic.on_notify()[0]] == [1, 2, 3]


def test_decision_that_leaves_after_the_deadline_has_no_ads(start: Start) -> None:
    process = start(silent=True)
    logic = process.logic()
    accept(logic, fresh(1))
    process.open()
    process.house.clock.advance(60_001)
    (decision,) = logic.on_notify()[0]
    assert (decision.status, decision.ads) == ("expired", ())


def test_auction_that_fails_by_a_fault_of_ours_is_a_decision_and_the_flow_goes_on(start: Start) -> None:
    process = start(broken=True)
    logic = process.logic()
    (decision,) = run_logic(logic, fresh(1))
    assert [outcome.code for outcome in decision.outcomes] == [Outcome.ERROR]
    process.house.broken = False
    assert [decision.status for decision in run_logic(logic, fresh(2))] == ["won"]


def test_decisions_are_counted_as_they_leave(start: Start) -> None:
    def counts() -> tuple[float, ...]:
        return (
            metric("datastreamx_decisions_total", status="won"),
            metric("datastreamx_decisions_total", status="expired"),
            metric("datastreamx_aggregator_outcomes_total", aggregator="alpha", outcome="won"),
            metric("datastreamx_aggregator_latency_seconds_count", aggregator="alpha"),
            metric("datastreamx_auction_latency_seconds_count"),
        )

    before = counts()
    run_logic(start().logic(), fresh(1), fresh(2), fresh(3, expired=True))
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [2, 1, 2, 3, 3]


def test_opportunity_in_flight_is_issued_again_after_a_crash_with_the_same_id(start: Start) -> None:
    first = start(silent=True).logic()
    accept(first, fresh(7))
    (decision,) = start().logic(first.snapshot()).on_eof()[0]
    assert decision.auction_id == f"{7:032x}"
    assert decision.outcomes[0].attempt == 2


def test_opportunity_decided_in_the_log_is_not_decided_again(start: Start) -> None:
    first = start(silent=True).logic()
    accept(first, fresh(7), fresh(8))
    reused = metric("datastreamx_decisions_reused_total")
    process = start(log=_Log([decided(f"{n:032x}", 0, n) for n in (7, 9)]))
    decisions = run_logic(process.logic(first.snapshot()), fresh(9), fresh(10))
    assert {decision.auction_id for decision in decisions} == {f"{n:032x}" for n in (8, 10)}
    assert sorted(process.house.asked) == [(8, 2), (10, 1)]
    assert metric("datastreamx_decisions_reused_total") - reused == 2


def test_snapshot_keeps_the_old_place_in_the_log_until_all_decided_ones_have_come_again(start: Start) -> None:
    process = start()
    logic = process.logic()
    run_logic(logic, fresh(1))
    process.acked.record(0, 100)
    before = logic.snapshot()
    assert mark(logic) == 100

    log = _Log([decided(f"{n:032x}", 0, n) for n in (5, 6)])
    second = start(log=log)
    second.acked.record(0, 200)
    resumed = second.logic(before)
    assert log.reads[0] == (0, 100)
    run_logic(resumed, fresh(5))
    assert mark(resumed) == 100
    run_logic(resumed, fresh(6))
    assert mark(resumed) == 200


def test_decided_auction_of_another_key_group_is_not_waited_for(start: Start) -> None:
    process = start(log=_Log([decided("f" * 32, 3, 1)]))
    process.acked.record(0, 50)
    logic = process.logic()
    run_logic(logic, fresh(1))
    assert mark(logic) == 50


def test_one_reading_of_the_log_serves_all_key_groups_of_a_partition() -> None:
    log = _Log([decided("a", 0, 7), decided("b", 1, 8)])
    memory = DecidedMemory(log, AckedOffsets(), lambda _: None)
    assert memory.recall("p000g0", 50) == {"a": 7}
    assert memory.recall("p000g1", 60) == {"b": 8}
    # Each partition is read once more for its lessons, unless that was all of it.
    assert log.reads == [(0, 50), (0, None)]
    memory.recall("p000g1", 40)
    memory.recall("p000g2", None)
    memory.recall("p000g0", 10)
    memory.recall("p001g0", LESSONS + 10)
    assert log.reads == [(0, 50), (0, None), (0, 40), (0, None), (1, LESSONS + 10), (1, 10)]


def test_house_learns_once_from_each_decision_read_back_and_not_from_those_of_this_process() -> None:
    log = _Log([decided("c", 0, 7), decided("d", 1, 8)])
    learned: list[str] = []
    memory = DecidedMemory(log, AckedOffsets(), lambda entry: learned.append(entry.auction_id))
    memory.recall("p000g0", 50)
    memory.recall("p000g1", 60)
    assert learned == ["c", "d"]
    # A second reading from further back holds those again, and what this process has decided since.
    log.decided = [decided("b", 3, 6), *log.decided, decided("own", 0, 9)]
    memory.recall("p000g2", 40)
    assert learned == ["c", "d"]


def test_marks_are_those_of_the_partition() -> None:
    acked = AckedOffsets()
    memory = DecidedMemory(_Log(), acked, lambda _: None)
    acked.record(3, 70)
    assert memory.mark("p003g1") == 70
    assert memory.mark("p004g1") is None


def test_house_relearns_when_a_flow_resumes(start: Start) -> None:
    first = start(silent=True).logic()
    accept(first, fresh(7))
    process = start(log=_Log([decided(f"{7:032x}", 0, 7), decided("other", 1, 8)]))
    assert process.logic(first.snapshot()).on_eof()[0] == []
    assert process.learned == [f"{7:032x}", "other"]


@pytest.mark.parametrize("epoch", [timedelta(0), timedelta(hours=1)], ids=["every item", "at the end"])
def test_crash_story_every_opportunity_has_one_decision(start: Start, tmp_path: Path, epoch: timedelta) -> None:
    """Aborted twice in mid-flow; the log that survives is what the sink had acknowledged."""
    init_db_dir(tmp_path, 1)
    recovery = RecoveryConfig(str(tmp_path))
    numbers = list(range(60))
    items = [(KEY, [fresh(n), fresh(n + 1, box_id="stb-2")]) for n in numbers[::2]]
    crashes = [20, 40]

    # Not TestingSource.ABORT: its place in the list counts after a resume, so a second one repeats an item.
    def is_time(batch: list[Any]) -> bool:
        if batch and crashes and batch[0][1][0].offset == crashes[0]:
            crashes.pop(0)
            return True
        return False

    log: list[DecidedAuction] = []
    for _ in range(3):
        out: list[tuple[str, Decision]] = []
        flow = Dataflow("auction_story")
        opportunities = op.input("in", flow, CrashingSource(TestingSource(items), is_time))
        op.output("out", bidding("bidding", opportunities, start(log=_Log(log)).ports).decisions, TestingSink(out))
        run_main(flow, epoch_interval=epoch, recovery_config=recovery)
        log = log + [decided(d.auction_id, d.group, d.offset) for _, d in out]
    assert crashes == []
    assert sorted(entry.offset for entry in log) == numbers
    assert [entry.offset for entry in log if entry.offset % 2] == numbers[1::2]


def test_snapshot_bytes_are_an_interface() -> None:
    """A change here means that auctions in flight in running deployments cannot resume: new fields need defaults."""
    snapshot = Snapshot(2, KEY, 42, [InFlight(opportunity(), 2)])
    assert CODEC.encode(snapshot) == GOLDEN.read_bytes()
    assert CODEC.decode(GOLDEN.read_bytes()) == snapshot
