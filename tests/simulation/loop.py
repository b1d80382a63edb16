"""An event loop in virtual time, and the executor on it: what `operators.async_map.Executor` does, without its thread.

It keeps that class's promises as its docstring states them: one output per job, that of the deadline if it is first; a
job whose deadline comes first is cancelled; places are taken until outputs leave.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any

from datastreamx.clock import Clock
from operators.async_map import Done, Job
from tests.simulation.world import World


class VirtualFuture:
    """As much of a future as the product uses."""

    def __init__(self) -> None:
        self._is_done = False
        self._waiting: list[Callable[[], None]] = []

    def done(self) -> bool:
        return self._is_done

    def set_result(self, _: object) -> None:
        self._is_done = True
        for wake in self._waiting:
            wake()

    def then(self, wake: Callable[[], None]) -> None:
        if self._is_done:
            wake()
        else:
            self._waiting.append(wake)

    def __await__(self) -> Generator[VirtualFuture, None, None]:
        if not self._is_done:
            yield self


class VirtualLoop:
    """Runs callbacks and coroutines on the world's agenda until its process dies."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.is_alive = True

    def create_future(self) -> VirtualFuture:
        return VirtualFuture()

    def pause(self, duration_ms: int) -> VirtualFuture:
        """What `asyncio.sleep` is."""
        future = VirtualFuture()
        self.call_later(duration_ms, partial(future.set_result, None))
        return future

    def call_later(self, delay_ms: int, do: Callable[[], None]) -> None:
        self._world.at(self._world.clock.now_ms() + max(0, delay_ms), partial(self._guarded, do))

    def run(self, work: Coroutine[Any, Any, Any], ended: Callable[[Any, Exception | None], None]) -> None:
        """Drive a coroutine; `ended` gets its result or its error."""
        if not self.is_alive:
            work.close()
            return
        # The product asks for the running loop by asyncio's own function.
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)  # type: ignore[arg-type]
        try:
            awaited: VirtualFuture = work.send(None)
        except StopIteration as end:
            result, error = end.value, None
        except Exception as failure:  # noqa: BLE001  handed on, as a task keeps it
            result, error = None, failure
        else:
            awaited.then(partial(self.run, work, ended))
            return
        finally:
            asyncio._set_running_loop(before)
        ended(result, error)

    def _guarded(self, do: Callable[[], None]) -> None:
        if self.is_alive:
            do()


class VirtualExecutor:
    """See the module. One per process; `kill` ends it as the process's death would."""

    def __init__(self, world: World, loop: VirtualLoop, capacity: int) -> None:
        self.clock: Clock = world.clock
        self._loop = loop
        self._capacity = capacity
        self._taken = 0
        self._outboxes: dict[str, deque[Done[Any]]] = {}

    @property
    def is_idle(self) -> bool:
        return self._taken == 0

    @property
    def is_alive(self) -> bool:
        return True

    def reserve(self, count: int = 1, *, beyond_capacity: bool = False) -> int:
        taken = count if beyond_capacity else max(0, min(count, self._capacity - self._taken))
        self._taken += taken
        return taken

    def release(self, count: int) -> None:
        self._taken -= count

    def submit(self, key: str, jobs: Sequence[Job[Any]]) -> None:
        outbox = self._outboxes.setdefault(key, deque())
        now_ms = self.clock.now_ms()
        for job in jobs:
            run = _Run(job, outbox)
            if job.deadline_ms is not None:
                self._loop.call_later(job.deadline_ms - now_ms, run.time_is_up)
            self._loop.call_later(0, partial(run.start, self._loop))

    def collect(self, key: str) -> list[Done[Any]]:
        outbox = self._outboxes.get(key)
        return [outbox.popleft() for _ in range(len(outbox))] if outbox else []

    def run_soon(self, work: Coroutine[Any, Any, None]) -> None:
        self._loop.run(work, lambda _result, _error: None)

    def on_close(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Nothing is ever closed here: processes are killed, or forgotten after a clean stop."""


class _Run:
    def __init__(self, job: Job[Any], outbox: deque[Done[Any]]) -> None:
        self._job = job
        self._outbox = outbox
        self._is_settled = False

    def start(self, loop: VirtualLoop) -> None:
        if not self._is_settled:
            loop.run(self._job.run(), self._ended)

    def time_is_up(self) -> None:
        self._settle(self._job.on_timeout)

    def _ended(self, output: Any, error: Exception | None) -> None:
        if error is None:
            self._settle(lambda: output)
        elif self._job.on_error is not None:
            self._settle(partial(self._job.on_error, error))
        else:
            raise error

    def _settle(self, output_of: Callable[[], Any]) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._outbox.append(Done(self._job.id, output_of()))
