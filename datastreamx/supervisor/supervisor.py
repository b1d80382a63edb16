"""Attempt after attempt, until somebody asks to end or it is of no use."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from datastreamx.clock import Clock, SystemClock
from datastreamx.log import get_logger
from datastreamx.supervisor.attempt import Attempt
from datastreamx.supervisor.limits import Limits
from datastreamx.supervisor.lock import alone
from datastreamx.supervisor.panel import Panel
from datastreamx.supervisor.restarts import Reason, Restarts
from datastreamx.supervisor.server import Answers, serving
from datastreamx.supervisor.signals import Signals
from datastreamx.supervisor.view import Exit, Stage
from datastreamx.supervisor.worker import Worker, reap_orphans

_log = get_logger("supervisor")

_SIGNALLED = 128
"""What shells add to the number of the signal that ended a process."""


@dataclass(frozen=True)
class Job:
    """What is supervised.

    Attributes:
        flow: Name of the flow.
        store: Name of its recovery store, which names the status file, too.
        argv: Program and arguments of the worker.
        recovery_directory: Where the status file and the supervisor's lock go.
        listen: Host and port of `/livez`, `/readyz`, `/status` and `/metrics`; `None`: nobody asks. Port 0 takes a
            free one.
        argv_until_durable: Further arguments for the first worker, and the next ones until a snapshot was durable: what
            somebody allowed once is not allowed for ever.
        processes: Of the flow, wherever they run.
    """

    flow: str
    store: str
    argv: Sequence[str]
    recovery_directory: Path
    listen: tuple[str, int] | None = None
    argv_until_durable: Sequence[str] = ()
    processes: int = 1


@dataclass(frozen=True)
class Verdict:
    """How it ended.

    Attributes:
        code: Exit code for the supervisor's process.
        message: What the worker could not say itself; unset if nothing went wrong, or the worker has said it.
    """

    code: int
    message: str | None = None


class Supervisor:
    """Runs a worker until SIGTERM or SIGINT, or until starting it again is of no use. Once, in the main thread.

    Args:
        job: What to run.
        limits: How patient to be.
        clock: Wall clock and monotonic time.
        rng: Spreads restarts.
        show: Called once a second with a line for the person who watches, or `None` when there is nothing to tell.
        adopts: Whether orphans have to be reaped; by default, if this is the first process of a container.
    """

    def __init__(  # noqa: PLR0913  the outside world, each part replaceable
        self,
        job: Job,
        limits: Limits | None = None,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        show: Callable[[str | None], None] = lambda _line: None,
        adopts: bool | None = None,
    ) -> None:
        self._job = job
        self._limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._adopts = os.getpid() == 1 if adopts is None else adopts
        self._restarts = Restarts(self._limits, rng or random.Random())  # noqa: S311  spreads load, hides nothing
        self._signals = Signals()
        self._asked: list[signal.Signals] = []
        self._panel = Panel(
            job.flow, job.store, job.recovery_directory, limits=self._limits, clock=self._clock, show=show
        )
        self._panel.update(processes=job.processes)

    def run(self) -> Verdict:
        """Supervise to the end.

        Raises:
            CrashError: Another process does it, which suffers nothing; or the HTTP port cannot be used.
            OSError: The worker's program cannot be started.
        """
        job = self._job
        with self._signals, ExitStack() as resources:
            # Before the port, which the other one may use, and the status file, which is the other one's.
            resources.enter_context(alone(job.recovery_directory, job.flow, job.store))
            if job.listen is not None:
                panel = self._panel
                answers = Answers(lambda: panel.view, lambda: panel.status, self._limits, self._clock)
                address = resources.enter_context(serving(*job.listen, answers))
                _log.info("metrics", address=address)
                self._panel.update(metrics=address)
            resources.callback(self._panel.close)
            return self._supervise()

    def _supervise(self) -> Verdict:
        is_durable = False
        while not self._asked:
            attempt = Attempt(self._panel, self._limits, self._clock, self._asked, self._wait)
            attempt.run([*self._job.argv, *(() if is_durable else self._job.argv_until_durable)])
            is_durable = is_durable or attempt.is_durable
            if self._asked:
                return self._stopped(attempt)
            if attempt.is_hopeless:
                # The worker has said why, and its word shall be the last one.
                self._change("given_up", attempt)
                return Verdict(_exit_code(attempt.code))
            delay_s = self._failed(attempt)
            if delay_s is None:
                return self._gave_up(attempt)
            self._back_off(delay_s)
        self._change("stopped")
        return Verdict(0)

    def _failed(self, attempt: Attempt) -> float | None:
        """Seconds to wait; `None`: it has failed too often."""
        now_s, code, reason = self._clock.monotonic_s(), attempt.code, attempt.reason
        ran_s = now_s - attempt.started_s
        delay_s = self._restarts.failed(now_s, ran_s, reason)
        _log.warning("worker.ended", pid=attempt.pid, code=code, reason=reason, ran_s=round(ran_s, 1))
        self._change("given_up" if delay_s is None else "backing_off", attempt, reason)
        return delay_s

    def _stopped(self, attempt: Attempt) -> Verdict:
        self._change("stopped", attempt)
        if len(self._asked) > 1:
            return Verdict(_SIGNALLED + self._asked[-1])
        # One that had not worked had nothing to save, and may not even have had a handler for the signal.
        return Verdict(_exit_code(attempt.code) if attempt.has_worked else 0)

    def _gave_up(self, attempt: Attempt) -> Verdict:
        limits, code = self._limits, attempt.code
        _log.error("worker.given_up", failures=limits.failures_max, within_s=limits.failures_within_s, code=code)
        if attempt.reason == "error":
            return Verdict(_exit_code(code))
        last = {
            "hang": "hung and was killed",
            "signal": f"was killed by {_signal_name(-code)}",
            "ended": "ended without being asked to",
        }[attempt.reason]
        return Verdict(
            _exit_code(code) or 1,
            f"the worker of flow {self._job.flow} failed {limits.failures_max} times within "
            f"{limits.failures_within_s:g} s; the last one {last}. Look at what it logged, then start again",
        )

    def _back_off(self, delay_s: float) -> None:
        _log.info("worker.restarting", after_s=round(delay_s, 2), restarts=self._restarts.count)
        until_s = self._clock.monotonic_s() + delay_s
        while not self._asked and (left_s := until_s - self._clock.monotonic_s()) > 0:
            self._wait(None, left_s)

    def _wait(self, worker: Worker | None, longest_s: float) -> None:
        """For whatever comes first, at most for a tick; and let others know how things are."""
        self._panel.publish_if_due()
        pipe = None if worker is None or worker.is_deaf else worker.pipe
        self._asked += self._signals.wait(pipe, min(longest_s, self._limits.tick_s))
        if self._adopts:
            reap_orphans(worker.pid if worker else None)
        now_s = self._clock.monotonic_s()
        self._panel.update(looked_s=now_s, recent_failures=self._restarts.recent_failures(now_s))

    def _change(self, stage: Stage, attempt: Attempt | None = None, reason: Reason | None = None) -> None:
        """There is no worker any more."""
        now_s = self._clock.monotonic_s()
        if attempt is not None:
            self._panel.update(last_exit=Exit(at_ms=self._clock.now_ms(), code=attempt.code, reason=reason))
        self._panel.update(
            stage=stage,
            doing="",
            since_s=now_s,
            pid=None,
            silent_s=0.0,
            report=None,
            unready="the worker was stopped" if stage == "stopped" else "the worker has ended",
            backlog=None,
            restarts=tuple(self._restarts.by_reason.items()),
            recent_failures=self._restarts.recent_failures(now_s),
        )


def _exit_code(code: int) -> int:
    return _SIGNALLED - code if code < 0 else code


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
