"""Whether a worker does its job: restored, durable, and at the head of its log or on the way there. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from datastreamx.pulse import Report
from datastreamx.supervisor.limits import Limits

_SAMPLE_S = 1.0


@dataclass(frozen=True)
class CatchUp:
    """A backlog that is being worked off.

    Attributes:
        records: Not read yet.
        per_second: By how many it shrinks; 0 or less when it does not.
    """

    records: int
    per_second: float

    @property
    def left_s(self) -> float | None:
        """Seconds until it is gone; unset if it does not shrink."""
        return self.records / self.per_second if self.per_second > 0 else None


class Readiness:
    """Fed with the reports of one worker."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._last: Report | None = None
        self._samples: deque[tuple[float, int]] = deque()

    def heard(self, now_s: float, report: Report) -> None:
        """One report, at a monotonic time."""
        self._last = report
        if report.phase != "running" or report.lag_records is None:
            return
        samples = self._samples
        if not samples or now_s - samples[-1][0] >= _SAMPLE_S:
            samples.append((now_s, report.lag_records))
        while now_s - samples[0][0] > self._limits.lag_window_s:
            samples.popleft()

    def catch_up(self) -> CatchUp | None:
        """The backlog; `None`: there is none, or it is not known."""
        report = self._last
        if report is None or report.phase != "running" or report.lag_records is None or report.lag_ms is None:
            return None
        if report.lag_ms <= self._limits.lag_small_s * 1000 or report.lag_records <= self._limits.lag_small_records:
            return None
        (since_s, before), (until_s, _) = self._samples[0], self._samples[-1]
        passed_s = until_s - since_s
        return CatchUp(report.lag_records, (before - report.lag_records) / passed_s if passed_s else 0.0)

    def problem(self) -> str | None:
        """Why it is not ready, in words; `None`: it is."""
        report = self._last
        if report is None:
            return "the worker has not reported yet"
        if report.phase != "running":
            return f"the worker is {report.phase}" + (f": {report.doing}" if report.doing else "")
        if not report.epochs:
            return "no snapshot of this worker is durable yet"
        if report.lag_records is None:
            return "the lag is not known yet"
        backlog = self.catch_up()
        if backlog is not None and backlog.per_second <= 0:
            return f"{backlog.records} records behind, and not catching up"
        return None
