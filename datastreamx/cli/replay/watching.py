"""Progress: a bar for a person, a line every few seconds for a log."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn

from datastreamx.cli.output import is_interactive, stderr
from datastreamx.log import get_logger
from flows.replaying.meter import Meter
from flows.replaying.span import iso

BAR_INTERVAL_S = 0.5
LOG_INTERVAL_S = 10.0
_MEMORY = 20

_log = get_logger("replay")


class Pace:
    """Speed over the last readings, and the time left at that speed."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, int]] = deque(maxlen=_MEMORY)

    def note(self, now_s: float, done: int) -> None:
        """Take a reading."""
        self._readings.append((now_s, done))

    @property
    def per_second(self) -> float:
        """Records per second; 0 while it is not known."""
        if len(self._readings) < 2:  # noqa: PLR2004  a speed takes two readings
            return 0.0
        (first_s, first), (last_s, last) = self._readings[0], self._readings[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    def left_s(self, total: int) -> float | None:
        """Seconds until `total` is reached; `None` while nobody can tell."""
        speed = self.per_second
        return max(0, total - self._readings[-1][1]) / speed if speed > 0 else None


@contextmanager
def watching(meter: Meter) -> Iterator[None]:
    """Show how far `meter` is, from a thread of its own."""
    stop = threading.Event()
    show = _show_bar if is_interactive() else _show_lines
    thread = threading.Thread(target=show, args=(meter, stop), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show_lines(meter: Meter, stop: threading.Event) -> None:
    pace = Pace()
    pace.note(monotonic(), meter.done)
    while not stop.wait(LOG_INTERVAL_S):
        pace.note(monotonic(), meter.done)
        left_s = pace.left_s(meter.total)
        _log.info(
            "replay.progress",
            records=meter.done,
            of=meter.total,
            percent=round(100 * _share(meter), 1),
            records_per_second=round(pace.per_second),
            seconds_left=None if left_s is None else round(left_s),
            at=iso(meter.newest_ms) if meter.newest_ms else None,
        )


def _show_bar(meter: Meter, stop: threading.Event) -> None:
    pace = Pace()
    columns = (
        TextColumn("replay"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
    )
    with Progress(*columns, console=stderr, transient=True) as progress:
        task = progress.add_task("replay", total=meter.total or None, pace="")
        while not stop.wait(BAR_INTERVAL_S):
            pace.note(monotonic(), meter.done)
            progress.update(task, completed=meter.done, total=meter.total or None, pace=in_words(pace, meter))


def in_words(pace: Pace, meter: Meter) -> str:
    """Speed, place in the log and time left."""
    parts = [f"{pace.per_second:,.0f} records/s"]
    if meter.newest_ms:
        parts.append(f"at {iso(meter.newest_ms)}")
    left_s = pace.left_s(meter.total)
    if left_s is not None:
        hours, rest = divmod(round(left_s), 3_600)
        parts.append(f"{hours}:{rest // 60:02d}:{rest % 60:02d} left")
    return ", ".join(parts)


def _share(meter: Meter) -> float:
    return meter.done / meter.total if meter.total else 1.0
