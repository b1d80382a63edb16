from __future__ import annotations

import asyncio
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge
from structlog.testing import capture_logs

from datastreamx.clock import ManualClock
from datastreamx.errors import CrashError
from operators.async_map import Done, Executor, Job

CLOCK = ManualClock()
NOW_MS = CLOCK.now_ms()
SOON_MS = NOW_MS + 20
Make = Callable[..., Executor[str]]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Executor[str]] = []

    def make_one(*, capacity: int = 100, concurrency: int = 10, **others: Any) -> Executor[str]:
        terms = {"clock": CLOCK, "name": "test-executor", **others}
        made.append(Executor(capacity=capacity, concurrency=concurrency, **terms))
        return made[-1]

    yield make_one
    for executor in made:
        executor.close()


async def at_once() -> str:
    return "done"


async def for_ever() -> str:
    never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    return await never


async def fault() -> str:
    raise ZeroDivisionError("stb-1 watched ch7")


def job(
    job_id: str,
    run: Callable[[], Coroutine[Any, Any, str]],
    deadline_ms: int | None = None,
    on_timeout: Callable[[], str] = lambda: "timeout",
    on_error: Callable[[Exception], str] | None = None,
) -> Job[str]:
    return Job(job_id, run, deadline_ms, on_timeout, on_error)


def wait_for(executor: Executor[str], count: int, key: str = "k") -> list[Done[str]]:
    done = executor.collect(key)
    while len(done) < count:
        time.sleep(0.001)
        done += executor.collect(key)
    return done


def on_loop(executor: Executor[str], call: Callable[[], None] = lambda: None) -> None:
    """Call on the loop and wait until everything that was ready before has had its step."""
    called = threading.Event()

    async def work() -> None:
        call()
        for _ in range(5):
            await asyncio.sleep(0)
        called.set()

    executor.run_soon(work())
    assert called.wait(10)


def test_output_comes_back_under_the_key_of_its_job(make: Make) -> None:
    executor = make()
    executor.submit("a", [job("1", at_once), job("2", at_once)])
    executor.submit("b", [job("3", at_once)])
    assert wait_for(executor, 2, "a") == [("1", "done"), ("2", "done")]
    assert wait_for(executor, 1, "b") == [("3", "done")]
    assert executor.collect("never seen") == []


def test_job_that_is_not_done_by_its_deadline_is_cancelled_and_times_out(make: Make) -> None:
    cancelled = threading.Event()

    async def slow() -> str:
        try:
            return await for_ever()
        finally:
            cancelled.set()

    executor = make()
    executor.submit("k", [job("1", slow, SOON_MS)])
    assert wait_for(executor, 1) == [("1", "timeout")]
    assert cancelled.wait(10)


def test_job_that_comes_after_its_deadline_never_runs(make: Make) -> None:
    ran: list[str] = []

    async def run() -> str:
        ran.append("1")
        return "done"

    executor = make()
    executor.submit("k", [job("1", run, NOW_MS - 1)])
    assert wait_for(executor, 1) == [("1", "timeout")]
    on_loop(executor)
    assert ran == []


def test_job_that_waits_for_its_turn_at_its_deadline_never_runs(make: Make) -> None:
    ran: list[str] = []

    async def run() -> str:
        ran.append("2")
        return "done"

    executor = make(concurrency=1)
    gate = asyncio.Event()

    async def gated() -> str:
        await gate.wait()
        return "done"

    executor.submit("k", [job("1", gated), job("2", run, SOON_MS), job("3", at_once)])
    assert wait_for(executor, 1) == [("2", "timeout")]
    on_loop(executor, gate.set)
    assert wait_for(executor, 2) == [("1", "done"), ("3", "done")]
    assert ran == []


def test_job_that_timed_out_in_line_is_forgotten_though_no_turn_becomes_free(make: Make) -> None:
    class Item:
        async def run(self) -> str:
            return "done"

    executor = make(concurrency=1)
    executor.submit("k", [job("1", for_ever)])
    items = [Item() for _ in range(3)]
    traces = [weakref.ref(item) for item in items]
    executor.submit("k", [job(f"2{n}", item.run, SOON_MS) for n, item in enumerate(items)])
    del items
    assert len(wait_for(executor, 3)) == 3
    on_loop(executor)
    assert [trace() for trace in traces] == [None, None, None]


def test_first_completion_wins_even_over_a_job_that_ignores_its_cancellation(make: Make) -> None:
    async def stubborn() -> str:
        try:
            return await for_ever()
        except asyncio.CancelledError:
            return "too late"

    async def broken() -> str:
        try:
            return await for_ever()
        finally:
            raise ZeroDivisionError

    executor = make()
    executor.submit("k", [job("1", stubborn, SOON_MS), job("2", broken, SOON_MS)])
    assert wait_for(executor, 2) == [("1", "timeout"), ("2", "timeout")]
    on_loop(executor)
    assert executor.collect("k") == []


def test_cancelled_job_keeps_its_turn_until_it_has_ended(make: Make) -> None:
    gate = asyncio.Event()
    ran: list[str] = []

    async def drains_slowly() -> str:
        try:
            return await for_ever()
        finally:
            await gate.wait()

    async def run() -> str:
        ran.append("2")
        return "done"

    executor = make(concurrency=1)
    executor.submit("k", [job("1", drains_slowly, SOON_MS), job("2", run)])
    assert wait_for(executor, 1) == [("1", "timeout")]
    on_loop(executor)
    assert ran == []
    on_loop(executor, gate.set)
    assert wait_for(executor, 1) == [("2", "done")]


def test_no_turn_is_lost_however_jobs_end(make: Make) -> None:
    async def cancels_itself() -> str:
        raise asyncio.CancelledError

    executor = make(concurrency=2)
    endings = [at_once, for_ever, fault, cancels_itself]
    batch = [job(str(n), endings[n % 4], NOW_MS + n % 7, on_error=lambda _: "error") for n in range(400)]
    executor.submit("k", batch)
    assert len(wait_for(executor, 400)) == 400
    executor.submit("k", [job("last", at_once), job("very last", at_once)])
    assert wait_for(executor, 2) == [("last", "done"), ("very last", "done")]


def test_no_more_jobs_than_turns_run_at_a_time_and_they_start_in_order(make: Make) -> None:
    started: list[int] = []
    running, most = 0, 0

    def numbered(n: int) -> Job[str]:
        async def run() -> str:
            nonlocal running, most
            started.append(n)
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return "done"

        return job(str(n), run)

    executor = make(concurrency=3)
    executor.submit("a", [numbered(n) for n in range(10)])
    executor.submit("b", [numbered(n) for n in range(10, 20)])
    wait_for(executor, 10, "a")
    wait_for(executor, 10, "b")
    assert started == list(range(20))
    assert most == 3


def test_burst_is_started_bit_by_bit_so_that_what_is_ready_has_its_turn(make: Make) -> None:
    """A loop that starts all of a burst in one go reads no reply until all are sent."""
    order: list[str] = []

    async def start() -> str:
        order.append("start")
        return "done"

    async def ready() -> None:
        for _ in range(3):
            order.append("ready")
            await asyncio.sleep(0)

    executor = make(concurrency=100)
    on_loop(executor)
    executor.run_soon(ready())
    executor.submit("k", [job(str(n), start) for n in range(60)])
    wait_for(executor, 60)
    after_the_burst_began = order[order.index("start") :]
    assert "ready" in after_the_burst_began[:40], order


def test_nobody_is_accepted_while_the_first_in_line_has_waited_too_long(make: Make) -> None:
    clock = ManualClock()
    executor = make(concurrency=1, clock=clock, longest_wait_ms=500)
    gate = asyncio.Event()

    async def until_open() -> str:
        await gate.wait()
        return "done"

    assert executor.reserve(2) == 2
    executor.submit("k", [job("runs", until_open), job("waits", at_once)])
    on_loop(executor)
    clock.advance(500)
    assert executor.reserve() == 1
    clock.advance(1)
    assert executor.reserve() == 0
    assert executor.reserve(beyond_capacity=True) == 1
    on_loop(executor, gate.set)
    wait_for(executor, 2)
    assert executor.reserve() == 1


def test_executor_is_idle_when_all_outputs_have_left(make: Make) -> None:
    executor = make()
    idle = [executor.is_idle]
    executor.reserve()
    executor.submit("k", [job("a", at_once)])
    wait_for(executor, 1)
    idle.append(executor.is_idle)
    executor.release(1)
    assert [*idle, executor.is_idle] == [True, False, True]


def test_exception_becomes_the_output_that_on_error_makes_of_it(make: Make) -> None:
    executor = make()
    executor.submit("k", [job("1", fault, on_error=lambda error: type(error).__name__)])
    assert wait_for(executor, 1) == [("1", "ZeroDivisionError")]


def test_exception_without_on_error_stops_the_flow(make: Make) -> None:
    executor = make()
    executor.submit("k", [job("1", fault)])
    with pytest.raises(CrashError, match=r"test-executor: .*ZeroDivisionError"):
        wait_for(executor, 1)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
def test_job_that_ends_itself_in_a_rude_way_stops_the_flow_and_not_the_loop(make: Make, error: BaseException) -> None:
    async def rude() -> str:
        raise error

    executor = make()
    executor.submit("k", [job("1", rude)])
    with pytest.raises(CrashError):
        wait_for(executor, 1)
    on_loop(executor)


@pytest.mark.parametrize("where", ["on_timeout", "on_error"])
def test_fault_in_what_makes_an_output_stops_the_flow(make: Make, where: str) -> None:
    def broken(*_: Exception) -> str:
        raise LookupError(where)

    executor = make()
    if where == "on_timeout":
        executor.submit("k", [job("1", for_ever, SOON_MS, on_timeout=broken)])
    else:
        executor.submit("k", [job("1", fault, on_error=broken)])
    with pytest.raises(CrashError, match=where):
        wait_for(executor, 1)


def test_failure_is_logged_with_its_place_and_without_its_message(make: Make) -> None:
    executor = make()
    with capture_logs() as logs:
        executor.submit("k", [job("1", fault, on_error=lambda _: "error")])
        wait_for(executor, 1)
    (entry,) = logs
    assert (entry["event"], entry["error"], entry["job"]) == ("job_failed", "ZeroDivisionError", "1")
    assert "in fault" in entry["where"]
    assert "stb-1 watched" not in str({**entry, "where": ""})


def test_burst_of_failures_does_not_flood_the_log(make: Make) -> None:
    executor = make()
    with capture_logs() as logs:
        executor.submit("k", [job(str(n), fault, on_error=lambda _: "error") for n in range(200)])
        wait_for(executor, 200)
    assert 1 <= len(logs) < 100


def test_places_are_taken_and_given_back() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("places", "Taken", registry=registry)
    executor: Executor[str] = Executor(capacity=5, concurrency=1, clock=CLOCK, name="test", in_flight=gauge)
    assert executor.reserve()
    assert executor.reserve(10) == 4
    assert not executor.reserve()
    assert executor.reserve(3, beyond_capacity=True) == 3
    assert registry.get_sample_value("places") == 8
    executor.release(3)
    assert executor.reserve() == 0
    executor.release(1)
    assert executor.reserve(2) == 1


def test_output_keeps_its_place_until_it_is_released(make: Make) -> None:
    executor = make(capacity=1)
    assert executor.reserve()
    executor.submit("k", [job("1", at_once)])
    wait_for(executor, 1)
    assert not executor.reserve()
    executor.release(1)
    assert executor.reserve()


def test_close_cancels_what_runs_and_then_calls_the_closers_last_one_first(make: Make) -> None:
    story: list[str] = []

    async def run() -> str:
        child = asyncio.get_running_loop().create_task(background(), name="its child")
        try:
            return await for_ever()
        finally:
            story.append(f"job cancelled with {child.get_name()}")

    async def background() -> None:
        try:
            await for_ever()
        finally:
            story.append("child cancelled")

    async def first() -> None:
        story.append("first closer")

    async def broken() -> None:
        story.append("broken closer")
        raise ZeroDivisionError

    executor = make()
    executor.on_close(first)
    executor.on_close(broken)
    executor.submit("k", [job("1", run)])
    on_loop(executor)
    with capture_logs() as logs:
        executor.close()
    assert sorted(story[:2]) == ["child cancelled", "job cancelled with its child"]
    assert story[2:] == ["broken closer", "first closer"]
    assert [entry["event"] for entry in logs] == ["close_failed"]


def test_closed_executor_says_so(make: Make) -> None:
    executor = make()
    executor.submit("k", [job("1", at_once)])
    wait_for(executor, 1)
    executor.close()
    executor.close()
    with pytest.raises(CrashError, match="closed"):
        executor.submit("k", [job("2", at_once)])
    with pytest.raises(CrashError, match="closed"):
        executor.collect("k")
    work = at_once()
    with pytest.raises(CrashError, match="closed"):
        executor.run_soon(work)  # type: ignore[arg-type]  # what it returns does not matter here


def test_thread_starts_with_the_first_job_and_ends_with_close(make: Make) -> None:
    def threads() -> int:
        return [thread.name for thread in threading.enumerate()].count("test-executor")

    executor = make()
    assert threads() == 0
    executor.submit("k", [job("1", at_once)])
    wait_for(executor, 1)
    assert threads() == 1
    assert sys.getswitchinterval() <= 0.001
    executor.close()
    assert threads() == 0


def test_failure_of_housekeeping_is_logged_and_stops_nothing(make: Make) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    executor = make()
    with capture_logs() as logs:
        executor.run_soon(broken())
        on_loop(executor)
        executor.submit("k", [job("1", at_once)])
        assert wait_for(executor, 1) == [("1", "done")]
    assert [entry["event"] for entry in logs] == ["housekeeping_failed"]


def test_loop_that_a_job_blocks_is_not_alive_until_it_turns_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operators.async_map.executor._SIGN_INTERVAL_S", 0.01)
    monkeypatch.setattr("operators.async_map.executor._SILENT_S", 0.3)
    executor, gate = make(), threading.Event()

    def wait_until_alive(*, wanted: bool) -> None:
        while executor.is_alive is not wanted:
            time.sleep(0.01)

    async def block() -> str:
        gate.wait(30)
        return "done"

    executor.submit("k", [job("a", block)])
    wait_until_alive(wanted=False)
    gate.set()
    wait_for(executor, 1)
    wait_until_alive(wanted=True)
