"""One worker, from start to end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Sequence

from datastreamx.clock import Clock
from datastreamx.log import get_logger
from datastreamx.pulse import Report
from datastreamx.supervisor.limits import Limits
from datastreamx.supervisor.panel import Panel
from datastreamx.supervisor.readiness import Readiness
from datastreamx.supervisor.restarts import Reason
from datastreamx.supervisor.silence import Silence
from datastreamx.supervisor.view import Stage
from datastreamx.supervisor.worker import Worker

HOPELESS_CODES = frozenset({2, 3})
"""Exit codes of the command line for wrong usage and a wrong configuration, which may have been changed meanwhile; it
may not get far enough to say it through the pipe."""

_log = get_logger("supervisor")


class Attempt:
    """Starts a worker, listens to it, passes on requests to end, and kills it when it hangs or its grace is over.

    Args:
        panel: Learns what the worker reports.
        limits: How patient to be.
        clock: Monotonic time.
        asked: Requests to end so far; grows while we wait.
        wait: Returns when there may be something new about the worker, or after so many seconds.

    Attributes:
        started_s: When, on the monotonic clock.
        pid: Of the worker.
        code: How it ended, negative for a signal.
        has_worked: Whether its source was asked for items: before that it has nothing to save.
    """

    def __init__(
        self,
        panel: Panel,
        limits: Limits,
        clock: Clock,
        asked: Sequence[signal.Signals],
        wait: Callable[[Worker, float], None],
    ) -> None:
        self._panel = panel
        self._limits = limits
        self._clock = clock
        self._asked = asked
        self._wait = wait
        self.started_s = clock.monotonic_s()
        self._silence = Silence(limits, self.started_s)
        self._readiness = Readiness(limits)
        self._report = Report(phase="starting")
        self._is_hung = False
        self._is_killed = False
        self._asked_s: float | None = None
        self.has_worked = False
        self.code = 0
        self.pid = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether it says that starting it again cannot help."""
        return self._report.hopeless or self.code in HOPELESS_CODES

    @property
    def is_durable(self) -> bool:
        """Whether a snapshot of it is."""
        return self._report.epochs > 0

    @property
    def reason(self) -> Reason:
        """Why it ended, nobody having asked it to."""
        if self._is_hung:
            return "hang"
        if self.code < 0:
            return "signal"
        return "error" if self.code else "ended"

    def run(self, argv: Sequence[str]) -> None:
        """Start it and stay with it until it has ended.

        Raises:
            OSError: Its program cannot be started.
        """
        worker = Worker(argv)
        self.pid = worker.pid
        _log.info("worker.started", pid=worker.pid)
        self._panel.update(
            stage="starting",
            since_s=self.started_s,
            pid=worker.pid,
            heard_s=self.started_s,
            unready=self._readiness.problem(),
        )
        try:
            while (code := worker.poll()) is None:
                self._wait(worker, self._left_s())
                self._listen(worker)
                self._judge(worker)
            self.code = code
            # Its last words.
            self._listen(worker)
        finally:
            with contextlib.suppress(ProcessLookupError):
                worker.send(signal.SIGKILL)
            worker.close()

    def _listen(self, worker: Worker) -> None:
        now_s = self._clock.monotonic_s()
        self._silence.look(now_s)
        reports = worker.reports()
        for report in reports:
            self._readiness.heard(now_s, report)
        view = self._panel.view
        if reports:
            self._silence.heard()
            if reports[-1].epochs > self._report.epochs:
                self._panel.update(snapshot_s=now_s)
            self._report = reports[-1]
            self.has_worked = self.has_worked or self._report.phase == "running"
            self._panel.update(heard_s=now_s, report=self._report, backlog=self._readiness.catch_up())
        is_stopping = self._asked_s is not None
        stage: Stage = "stopping" if is_stopping else self._report.phase
        is_same = (stage, self._report.doing) == (view.stage, view.doing)
        self._panel.update(
            stage=stage,
            doing=self._report.doing,
            since_s=view.since_s if is_same else now_s,
            silent_s=self._silence.seconds,
            unready="the worker is stopping" if is_stopping else self._readiness.problem(),
        )

    def _judge(self, worker: Worker) -> None:
        if self._asked:
            self._stop(worker)
        elif not self._is_killed and self._silence.is_hang(self._report.phase):
            silent_s = round(self._silence.seconds, 1)
            _log.error("worker.hung", pid=worker.pid, phase=self._report.phase, silent_s=silent_s)
            self._is_hung = True
            self._kill(worker)

    def _stop(self, worker: Worker) -> None:
        if self._asked_s is None:
            self._asked_s = self._clock.monotonic_s()
            # To the worker both mean the same; Ctrl-C may have reached it already, twice does no harm.
            worker.send(signal.SIGTERM)
        if self._is_killed:
            return
        if len(self._asked) > 1:
            self._kill(worker)
        elif self._left_s() <= 0:
            if self.has_worked:
                _log.error("worker.killed", pid=worker.pid, grace_s=self._limits.grace_s)
            self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        self._is_killed = True
        worker.send(signal.SIGKILL)

    def _left_s(self) -> float:
        """Seconds until the worker's grace is over; a tick if there is no such moment."""
        if self._asked_s is None or self._is_killed:
            return self._limits.tick_s
        grace_s = self._limits.grace_s if self.has_worked else self._limits.starting_grace_s
        return max(0.0, self._asked_s + grace_s - self._clock.monotonic_s())
