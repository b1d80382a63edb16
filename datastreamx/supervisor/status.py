"""How a supervisor tells other processes how its worker is: in a file on its machine, and over HTTP."""

from __future__ import annotations

import contextlib
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path

import msgspec

from datastreamx.supervisor.restarts import Reason
from datastreamx.supervisor.view import Exit, Stage, View

SUFFIX = ".status.json"


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of the file and of `/status`.

    Made at every change and once a second, so its age tells whether its maker lives.

    Attributes:
        flow: Which flow.
        store: Name of its recovery store, which tells flow and ordinal.
        version: Release that the supervisor runs; empty in what older ones tell.
        at_ms: When it was made; all times are wall clock.
        supervisor_pid: The writer.
        stage: What goes on, see `view.Stage`.
        doing: What takes long right now; empty if nothing does.
        since_ms: Since when that goes on.
        pid: The worker; unset if there is none.
        restarts: Starts after a failure, by reason.
        recent_failures: Failures that count towards giving up.
        last_exit: How the last worker ended.
        report_age_ms: Age of the worker's last report; unset if it has not reported.
        epochs: Snapshots of this worker that are durable.
        snapshot_ms: When the newest durable snapshot was reported; unset if none was since the supervisor started.
        lag_records: Records not read yet; unset if not known.
        lag_ms: Age of the data; unset if not known.
        unready: Why the worker is not ready; unset if it is.
        metrics: Address of `/metrics` that is really served, also with `metrics.port = 0`; unset if none is.
    """

    flow: str
    store: str
    version: str = ""
    at_ms: int
    supervisor_pid: int
    stage: Stage
    doing: str = ""
    since_ms: int
    pid: int | None = None
    restarts: dict[Reason, int] = {}
    recent_failures: int = 0
    last_exit: Exit | None = None
    report_age_ms: int | None = None
    epochs: int = 0
    snapshot_ms: int | None = None
    lag_records: int | None = None
    lag_ms: int | None = None
    unready: str | None = None
    metrics: str | None = None

    @property
    def restart_count(self) -> int:
        """Starts after a failure, whatever the reason."""
        return sum(self.restarts.values())


def status_path(recovery_directory: Path, store: str) -> Path:
    """Where the supervisor of the worker with that store writes."""
    return recovery_directory / f"{store}{SUFFIX}"


@cache
def release() -> str:
    """Version of the installed program."""
    return version("datastreamx")


def status_of(flow: str, store: str, view: View, now_ms: int, now_s: float) -> Status:
    """What `view` says, in wall-clock time."""
    report = view.report
    return Status(
        flow=flow,
        store=store,
        version=release(),
        at_ms=now_ms,
        supervisor_pid=os.getpid(),
        stage=view.stage,
        doing=view.doing,
        since_ms=_wall_ms(view.since_s, now_ms, now_s),
        pid=view.pid,
        restarts=dict(view.restarts),
        recent_failures=view.recent_failures,
        last_exit=view.last_exit,
        report_age_ms=None if report is None else int((now_s - view.heard_s) * 1000),
        epochs=report.epochs if report else 0,
        snapshot_ms=None if view.snapshot_s is None else _wall_ms(view.snapshot_s, now_ms, now_s),
        lag_records=report.lag_records if report else None,
        lag_ms=report.lag_ms if report else None,
        unready=view.unready,
        metrics=view.metrics,
    )


def _wall_ms(then_s: float, now_ms: int, now_s: float) -> int:
    return now_ms - int((now_s - then_s) * 1000)


def write_status(path: Path, status: Status) -> None:
    """Replace the file: readers see the old one or the new one. Not synced: after a power cut nobody asks for it.

    Raises:
        OSError: It cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(msgspec.json.encode(status))
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def read_status(path: Path) -> Status | None:
    """What a supervisor last wrote; `None` if none did, or one of another release."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=Status)
    return None
