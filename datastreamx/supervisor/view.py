"""What a supervisor knows at one moment, and what it answers when asked how its worker is. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from datastreamx.pulse import Phase, Report
from datastreamx.supervisor.limits import Limits
from datastreamx.supervisor.readiness import CatchUp
from datastreamx.supervisor.restarts import Reason
from datastreamx.supervisor.silence import patience_s

Stage = Phase | Literal["stopping", "backing_off", "stopped", "given_up"]
"""A worker's phase; or it was asked to end; or there is none for now, for it was stopped, or because starting it does
not help."""


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker ended.

    Attributes:
        at_ms: Wall clock.
        code: Negative for a signal, as in `subprocess`.
        reason: Why it had to be started again; unset if it was asked to end, or says itself that a start is hopeless.
    """

    at_ms: int
    code: int
    reason: Reason | None = None


@dataclass(frozen=True)
class View:
    """The supervisor's knowledge. Times are monotonic, in seconds.

    Attributes:
        looked_s: When the supervisor last looked around.
        stage: What goes on.
        doing: What takes long right now; empty if nothing does.
        since_s: Since when that goes on.
        pid: The worker; unset if there is none.
        heard_s: When it last reported, or was started.
        snapshot_s: When it reported its newest durable snapshot; unset if there was none since the supervisor started.
        silent_s: Seconds of its silence that count.
        report: Its last report.
        unready: Why it is not ready.
        backlog: How far it is behind.
        restarts: Starts after a failure, by reason.
        recent_failures: Of those that count towards giving up.
        last_exit: How the last worker ended.
        metrics: Address of the supervisor's `/metrics`; unset if it serves none.
        processes: Of this flow, as configured: a count of those that answer is compared with it.
        disk_free_bytes: Where the recovery store is; unset if it cannot be told.
        disk_size_bytes: Of the same file system.
    """

    looked_s: float
    stage: Stage = "starting"
    doing: str = ""
    since_s: float = 0.0
    pid: int | None = None
    heard_s: float = 0.0
    snapshot_s: float | None = None
    silent_s: float = 0.0
    report: Report | None = None
    unready: str | None = "the worker was not started yet"
    backlog: CatchUp | None = None
    restarts: tuple[tuple[Reason, int], ...] = ()
    recent_failures: int = 0
    last_exit: Exit | None = None
    metrics: str | None = None
    processes: int = 1
    disk_free_bytes: int | None = None
    disk_size_bytes: int | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of `/livez` and `/readyz`.

    Attributes:
        reason: What is wrong; absent when `ok`.
        lag_ms: As the worker reported it.
    """

    ok: bool
    reason: str | None = None
    stage: Stage
    doing: str = ""
    restarts: int = 0
    report_age_ms: int | None = None
    lag_records: int | None = None
    lag_ms: int | None = None


def livez(view: View, limits: Limits, now_s: float) -> Health:
    """Whether a new start of everything would help: no outage of another system ever makes it say so."""
    return _health(view, now_s, _dead(view, limits, now_s))


def readyz(view: View, limits: Limits, now_s: float) -> Health:
    """Whether the worker does its job."""
    return _health(view, now_s, _dead(view, limits, now_s) or view.unready)


def _dead(view: View, limits: Limits, now_s: float) -> str | None:
    # The supervisor's loop, not only the thread that answers, has to live.
    stuck_s = now_s - view.looked_s
    if stuck_s > limits.running_silence_s:
        return f"the supervisor has not looked around for {stuck_s:.0f} s: does a disk hang?"
    if view.stage in {"stopped", "given_up"}:
        return "the supervisor is ending"
    if view.pid is None or view.stage in {"backing_off", "stopping"}:
        return None
    silent_s = view.silent_s + stuck_s
    if silent_s > patience_s(limits, view.report.phase if view.report else "starting"):
        return f"the worker has been silent for {silent_s:.0f} s"
    return None


def _health(view: View, now_s: float, reason: str | None) -> Health:
    report = view.report
    return Health(
        ok=reason is None,
        reason=reason,
        stage=view.stage,
        doing=view.doing,
        restarts=sum(count for _, count in view.restarts),
        report_age_ms=None if report is None else int((now_s - view.heard_s) * 1000),
        lag_records=report.lag_records if report else None,
        lag_ms=report.lag_ms if report else None,
    )


def progress_line(flow: str, view: View, limits: Limits, now_s: float) -> str | None:
    """What a person who waits wants to know, in one line; `None`: there is nothing to wait for."""
    head = f"{flow}: {view.stage.replace('_', ' ')}"
    if view.stage in {"starting", "restoring", "stopping", "backing_off"}:
        return f"{head}{f': {view.doing}' if view.doing else ''}, {now_s - view.since_s:.0f} s"
    if view.stage != "running" or view.pid is None:
        return None
    if view.silent_s > limits.running_silence_s / 3:
        return f"{head}, but silent for {view.silent_s:.0f} s"
    backlog = view.backlog
    if backlog is None:
        return None
    left = "not catching up" if backlog.left_s is None else f"about {_minutes(backlog.left_s)} left"
    return f"{flow}: catching up, {backlog.records:,} records to go, {max(0.0, backlog.per_second):,.0f}/s, {left}"


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"  # noqa: PLR2004  two minutes
