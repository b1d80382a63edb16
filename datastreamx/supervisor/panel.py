"""Where a supervisor keeps what it knows, for the threads that answer, the status file, and the person who watches."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from datastreamx.clock import Clock
from datastreamx.log import get_logger
from datastreamx.supervisor.limits import Limits
from datastreamx.supervisor.status import Status, status_of, status_path, write_status
from datastreamx.supervisor.view import View, progress_line

_log = get_logger("supervisor")


class Panel:
    """One view, and the status made of it, changed by the supervisor's loop alone and read by anybody.

    Args:
        flow: Name of the flow.
        store: Name of its recovery store, which names the status file, too.
        directory: Where the status file goes.
        limits: Whose `tick_s` is the longest age of the file.
        clock: Wall clock and monotonic time.
        show: Called once a second with a line for the person who watches, or `None` when there is nothing to tell.
    """

    def __init__(  # noqa: PLR0913  what it is about, and the outside world
        self,
        flow: str,
        store: str,
        directory: Path,
        *,
        limits: Limits,
        clock: Clock,
        show: Callable[[str | None], None],
    ) -> None:
        self._flow = flow
        self._store = store
        self._directory = directory
        self._path = status_path(directory, store)
        self._limits = limits
        self._clock = clock
        self._show = show
        self._due_s = 0.0
        self._is_broken = False
        self.view = View(looked_s=clock.monotonic_s())
        self.status = self._status_at(clock.monotonic_s())

    def update(self, **changes: object) -> None:
        """Know more. What goes on is published by the next `publish_if_due`, the rest when its time has come."""
        before = self.view
        # One assignment: the threads that answer see the view before or the one after.
        self.view = replace(before, **changes)  # type: ignore[arg-type]
        if (before.stage, before.doing, before.pid) != (self.view.stage, self.view.doing, self.view.pid):
            self._due_s = 0.0

    def publish_if_due(self) -> None:
        """Write the file and show the line, at most once a tick unless something has changed."""
        now_s = self._clock.monotonic_s()
        if now_s < self._due_s:
            return
        self._due_s = now_s + self._limits.tick_s
        self._measure_disk()
        self._show(progress_line(self._flow, self.view, self._limits, now_s))
        # Kept for those who ask over HTTP: made anew for each of them, it would never show that this loop hangs.
        self.status = self._status_at(now_s)
        try:
            write_status(self._path, self.status)
        except OSError as error:
            # A full disk must not end what could still go on; the worker will say what it needs.
            if not self._is_broken:
                _log.warning("status.unwritable", path=str(self._path), error=str(error))
            self._is_broken = True
        else:
            self._is_broken = False

    def _measure_disk(self) -> None:
        free = size = None
        # A store that cannot be looked at is for the worker to complain about.
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(self._directory)
            free, size = usage.free, usage.total
        self.view = replace(self.view, disk_free_bytes=free, disk_size_bytes=size)

    def _status_at(self, now_s: float) -> Status:
        return status_of(self._flow, self._store, self.view, self._clock.now_ms(), now_s)

    def close(self) -> None:
        """Leave the last word in the file, and no line. Nobody answers any more."""
        self.update(metrics=None)
        self._due_s = 0.0
        self.publish_if_due()
        self._show(None)
