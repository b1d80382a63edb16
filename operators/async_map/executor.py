"""Runs coroutines for the workers of this process: one thread with one event loop, bounded, each job with a deadline.

A worker hands over a batch by one thread-safe call and finds the outputs in a queue: neither side waits for the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import uvloop
from prometheus_client import Gauge

from datastreamx.clock import Clock
from datastreamx.errors import CrashError
from datastreamx.log import get_logger

W = TypeVar("W")

# The interpreter lets a busy thread keep the lock for 5 ms by default; that long a reply would lie unread.
_SWITCH_INTERVAL_S = 0.000_5
# Then the loop looks for input before it starts more: started all at once, a burst keeps the loop from reading the
# replies that are there already, and all of them time out.
_STARTS_IN_A_ROW = 8
# How long cancelled jobs and closers may take to end; whoever closes a process has a grace period, too.
_CLOSE_TIMEOUT_S = 3.0
# The loop shows itself that often. Silent for longer than `_SILENT_S` it may hang, in whatever a job does to it; then
# the worker stops reporting, and only the patience of the supervisor with that decides.
_SIGN_INTERVAL_S = 1.0
_SILENT_S = 3.0
# When thousands of jobs fail per second, more lines tell nothing more.
_LOG_INTERVAL_S = 1.0


class Job(msgspec.Struct, Generic[W], frozen=True):
    """One coroutine to run.

    Attributes:
        id: Comes back in `Done`, and is named in logs.
        run: Makes the coroutine, on the loop's thread, when the job has its turn.
        deadline_ms: Epoch milliseconds after which `on_timeout` gives the output; `None`: it may run for ever.
        on_timeout: Called on the loop's thread.
        on_error: Turns an exception of `run` into an output, on the loop's thread. `None`: it is a fault of the program
            and stops the flow.
    """

    id: str
    run: Callable[[], Coroutine[Any, Any, W]]
    deadline_ms: int | None
    on_timeout: Callable[[], W]
    on_error: Callable[[Exception], W] | None = None


class Done(NamedTuple, Generic[W]):
    """The output of the job `id`."""

    id: str
    output: W


class _Run(Generic[W]):
    """A job on its way. Belongs to the loop's thread."""

    __slots__ = ("due_s", "job", "outbox", "settled", "submitted_s", "task", "timer")

    def __init__(self, job: Job[W], outbox: deque[Done[W]], submitted_s: float, due_s: float | None) -> None:
        self.job = job
        self.submitted_s = submitted_s
        self.outbox = outbox
        self.due_s = due_s
        self.settled = False
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None


class Executor(Generic[W]):
    """Runs jobs, `concurrency` of them at a time, in the order of their arrival.

    Every job submitted has exactly one output: that of its coroutine, or that of `on_timeout` if the deadline is first.
    A coroutine that is running then is cancelled; it keeps its turn until it has ended, because until then it uses what
    turns are there to bound. A job that still waits for its turn at its deadline never runs.

    The loop starts with the first job. All public methods may be called from any thread.

    Args:
        capacity: Places: jobs accepted whose outputs have not left yet.
        concurrency: Jobs running at a time; the others wait for their turn.
        clock: Wall clock that deadlines are compared with, once, when a job arrives: a step of it moves no deadline.
        name: Of the thread, and in logs.
        longest_wait_ms: While the first in line has waited for its turn longer than this, no place is free: a queue
            that is served in order makes everybody late as soon as it makes one late. Unset: only capacity limits.
        in_flight: Shows how many places are taken.
    """

    def __init__(  # noqa: PLR0913 - all by name
        self,
        *,
        capacity: int,
        concurrency: int,
        clock: Clock,
        name: str,
        longest_wait_ms: int | None = None,
        in_flight: Gauge | None = None,
    ) -> None:
        self.clock = clock
        self._longest_wait_s = None if longest_wait_ms is None else longest_wait_ms / 1000
        self._capacity = capacity
        self._name = name
        self._gauge = in_flight
        self._log = get_logger(name)
        self._lock = threading.Lock()
        self._places_taken = 0
        self._outboxes: dict[str, deque[Done[W]]] = {}
        self._fault: BaseException | None = None
        self._closed = False
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._inbox: deque[tuple[float, deque[Done[W]], Sequence[Job[W]]]] = deque()
        self._woken = False
        # From here on: touched by the loop's thread alone.
        self._turns_free = concurrency
        self._is_giving = False
        self._waiting: deque[_Run[W]] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._seen_s = 0.0
        self._next_log_s = 0.0
        self._failures_unlogged = 0

    @property
    def is_idle(self) -> bool:
        """Whether no place is taken: all outputs have left."""
        return self._places_taken == 0

    @property
    def is_alive(self) -> bool:
        """Whether the loop, if there is one, has turned lately."""
        return self._loop is None or time.monotonic() - self._seen_s < _SILENT_S

    def reserve(self, count: int = 1, *, beyond_capacity: bool = False) -> int:
        """Take up to `count` places and say how many were free.

        Args:
            count: How many are wanted.
            beyond_capacity: Take them all, for what cannot be refused any more.
        """
        if not beyond_capacity and self._is_congested():
            return 0
        with self._lock:
            taken = count if beyond_capacity else max(0, min(count, self._capacity - self._places_taken))
            self._change_places(taken)
        return taken

    def _is_congested(self) -> bool:
        """Whether the first in line waits for too long: whoever comes now would wait as long and have no time left."""
        if self._longest_wait_s is None:
            return False
        # Both lines are shortened by the loop's thread meanwhile.
        with contextlib.suppress(IndexError):
            first_s = self._waiting[0].submitted_s if self._waiting else self._inbox[0][0]
            return self.clock.monotonic_s() - first_s > self._longest_wait_s
        return False

    def release(self, count: int) -> None:
        """Give back the places of `count` outputs that have left."""
        with self._lock:
            self._change_places(-count)

    def submit(self, key: str, jobs: Sequence[Job[W]]) -> None:
        """Start jobs for which places were reserved; their outputs will be collected under `key`.

        Raises:
            CrashError: The executor is closed.
        """
        if not jobs:
            return
        loop = self._running_loop()
        self._inbox.append((self.clock.monotonic_s(), self._outboxes.setdefault(key, deque()), jobs))
        # The flag is set after the append here, and cleared before the reading there: whoever finds it set knows that
        # the loop has yet to read. So a burst of batches costs one wake-up.
        if not self._woken:
            self._woken = True
            loop.call_soon_threadsafe(self._accept)

    def collect(self, key: str) -> list[Done[W]]:
        """Outputs since the last call, in the order in which they came about. Their places stay taken: see `release`.

        Raises:
            CrashError: A job failed by a fault of this program, or the executor is closed.
        """
        if self._fault is not None:
            raise CrashError(f"{self._name}: a job failed by a fault of the program: {self._fault!r}") from self._fault
        if self._closed:
            raise self._closed_error()
        outbox = self._outboxes.get(key)
        return [outbox.popleft() for _ in range(len(outbox))] if outbox else []

    def run_soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Run housekeeping on the loop, e.g. warm connections. It needs no turn; its failure is only logged.

        Raises:
            CrashError: The executor is closed.
        """
        try:
            loop = self._running_loop()
        except CrashError:
            work.close()
            raise
        loop.call_soon_threadsafe(self._start_housekeeping, work)

    def on_close(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Have `closer` called on the loop by `close`, when no job runs any more; the last one added is the first."""
        with self._lock:
            self._closers.append(closer)

    def close(self) -> None:
        """Stop the loop and its thread. Jobs under way are cancelled and have no output (they are in the snapshot)."""
        with self._lock:
            self._closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _change_places(self, change: int) -> None:
        self._places_taken += change
        if self._gauge is not None:
            self._gauge.set(self._places_taken)

    def _closed_error(self) -> CrashError:
        return CrashError(f"{self._name}: the executor is closed; close it only after the flow has ended")

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is not None:
            return self._loop
        with self._lock:
            if self._closed:
                raise self._closed_error()
            if self._loop is None:
                sys.setswitchinterval(_SWITCH_INTERVAL_S)
                # An eighth less CPU per HTTP call than asyncio's own.
                loop = uvloop.new_event_loop()
                loop.set_exception_handler(self._report)
                self._seen_s = time.monotonic()
                loop.call_soon(self._show_itself, loop)
                self._thread = threading.Thread(target=loop.run_forever, name=self._name, daemon=True)
                self._thread.start()
                self._loop = loop
            return self._loop

    def _show_itself(self, loop: asyncio.AbstractEventLoop) -> None:
        self._seen_s = time.monotonic()
        loop.call_later(_SIGN_INTERVAL_S, self._show_itself, loop)

    def _accept(self) -> None:
        self._woken = False
        loop = asyncio.get_running_loop()
        now_s, now_ms = loop.time(), self.clock.now_ms()
        while self._inbox:
            submitted_s, outbox, jobs = self._inbox.popleft()
            for job in jobs:
                due_s = None if job.deadline_ms is None else now_s + (job.deadline_ms - now_ms) / 1000
                run = _Run(job, outbox, submitted_s, due_s)
                if due_s is not None:
                    run.timer = loop.call_at(due_s, self._time_is_up, run)
                self._waiting.append(run)
        self._give_turns(loop)

    def _give_turns(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._is_giving:
            return
        self._go_on_giving(loop)

    def _go_on_giving(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_giving = False
        starts_left = _STARTS_IN_A_ROW
        while self._turns_free and self._waiting and not self._closed:
            if not starts_left:
                self._is_giving = True
                loop.call_soon(self._go_on_giving, loop)
                return
            run = self._waiting.popleft()
            # The timer may be due and not yet called, e.g. because all of a large batch came too late.
            if run.due_s is not None and loop.time() >= run.due_s:
                self._settle(run, run.job.on_timeout)
                continue
            starts_left -= 1
            self._turns_free -= 1
            run.task = loop.create_task(self._perform(run))
            # Not in the coroutine's `finally`: a task that is cancelled before its first step never gets there.
            run.task.add_done_callback(self._end_turn)
            self._tasks.add(run.task)

    async def _perform(self, run: _Run[W]) -> None:
        try:
            output = await run.job.run()
        except asyncio.CancelledError:
            # By the deadline, by `close`, or by itself: nobody else would ever give the last one an output.
            if not run.settled and not self._closed:
                self._failed(run, RuntimeError("the job was cancelled, and not by its deadline"))
        except Exception as error:  # noqa: BLE001  the job says what becomes of it
            self._failed(run, error)
        except (SystemExit, KeyboardInterrupt) as fault:
            # Left alone it would end the loop's thread, and the flow would wait for ever.
            self._stop(fault)
        else:
            if not run.settled:
                self._settle(run, lambda: output)

    def _end_turn(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._turns_free += 1
        self._give_turns(task.get_loop())

    def _time_is_up(self, run: _Run[W]) -> None:
        if run.settled:
            return
        self._settle(run, run.job.on_timeout)
        if run.task is not None:
            run.task.cancel()
        else:
            # Its output may leave and free its place: were it left in line while no turn becomes free, nothing would
            # bound the line. It is among the first, so it is soon found.
            self._waiting.remove(run)

    def _failed(self, run: _Run[W], error: Exception) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_log_s:
            self._log_failure(
                "job_failed", error, job=run.job.id, late=run.settled, more_before=self._failures_unlogged
            )
            self._next_log_s, self._failures_unlogged = now_s + _LOG_INTERVAL_S, 0
        else:
            self._failures_unlogged += 1
        if run.settled:
            return
        if run.job.on_error is None:
            self._stop(error)
        else:
            self._settle(run, partial(run.job.on_error, error))

    def _settle(self, run: _Run[W], output_of: Callable[[], W]) -> None:
        run.settled = True
        if run.timer is not None:
            run.timer.cancel()
        try:
            run.outbox.append(Done(run.job.id, output_of()))
        except Exception as fault:  # noqa: BLE001  carried to the worker's thread
            self._stop(fault)

    def _stop(self, fault: BaseException) -> None:
        """Let the next `collect` stop the flow; the first fault is the one to tell of."""
        self._fault = self._fault or fault

    def _start_housekeeping(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end_housekeeping)

    def _end_housekeeping(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log_failure("housekeeping_failed", error)

    def _report(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody awaits: a library's forgotten task, a callback that raised."""
        self._log_failure("event_loop_error", context.get("exception"), message=context.get("message"))

    def _log_failure(self, event: str, error: BaseException | None, **fields: Any) -> None:
        """Kind and place of an error; not its message, which may quote the item."""
        where = traceback.format_tb(error.__traceback__) if error is not None else []
        self._log.error(event, error=type(error).__name__, where="".join(where), **fields)

    async def _shut_down(self) -> None:
        for run in self._waiting:
            if run.timer is not None:
                run.timer.cancel()
        self._waiting.clear()
        # Those that jobs have started are no less in the way of the closers than jobs.
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT_S)
            if stuck:
                self._log.error("tasks_left_behind", tasks=len(stuck))
        while self._closers:
            closer = self._closers.pop()
            try:
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await closer()
            except Exception as error:  # noqa: BLE001  the other closers are owed their call
                self._log_failure("close_failed", error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await asyncio.get_running_loop().shutdown_asyncgens()
