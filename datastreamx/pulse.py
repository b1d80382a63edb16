"""What a worker process tells its supervisor: that it lives, how far it is, and where its metrics are.

One JSON line per report over an inherited pipe. Writing never blocks and never fails the worker: a report that finds
the pipe full is dropped, for the next one says more.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Literal

import msgspec

PIPE_VARIABLE = "DATASTREAMX_PULSE_FD"
INTERVAL_S = 0.5

Phase = Literal["starting", "restoring", "running"]
"""starting: checks and connections. restoring: state is loaded. running: the source has been asked for items."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One line.

    Attributes:
        phase: Where the worker is.
        doing: What takes long right now, in words for the operator; empty if nothing does.
        epochs: Snapshots that are known to be durable since the start.
        lag_records: Records not read yet, in all partitions; unset until known.
        lag_ms: Age of the oldest of the newest records read; 0 when caught up, unset until known.
        metrics: Address of the worker's own `/metrics`; unset if it serves none.
        hopeless: Starting again cannot help: somebody has to change something first.
    """

    phase: Phase
    doing: str = ""
    epochs: int = 0
    lag_records: int | None = None
    lag_ms: int | None = None
    metrics: str | None = None
    hopeless: bool = False


_ENCODER = msgspec.json.Encoder()


class Pulse:
    """The worker's side. Call `beat` wherever the worker may spend long: polls, waits, loads. Thread-safe.

    Args:
        fd: Write end of the pipe; `None`: nobody listens, and nothing is written.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_blocking(fd, False)
        self._lock = threading.Lock()
        self._report = Report(phase="starting")
        self._next_s = 0.0
        self._lags: dict[str, tuple[int, int]] = {}
        self._organs: list[Callable[[], bool]] = []

    @classmethod
    def from_environment(cls) -> Pulse:
        """To the supervisor that started this process, if one did. What this process starts is not meant by it."""
        text = os.environ.pop(PIPE_VARIABLE, None)
        if not text:
            return cls()
        fd = int(text)
        os.set_inheritable(fd, False)
        return cls(fd)

    def watch(self, is_alive: Callable[[], bool]) -> None:
        """From now on `beat` reports nothing while `is_alive` says no: a thread that hangs is a worker that hangs."""
        self._organs.append(is_alive)

    def beat(self) -> None:
        """The calling thread is alive. At most two reports a second are written; the rest costs 0.1 µs."""
        if self._fd is not None and time.monotonic() >= self._next_s:
            self._send()

    def enter(self, phase: Phase, doing: str = "") -> None:
        """A new phase, or something else that takes long within it."""
        if phase != self._report.phase or doing != self._report.doing:
            self._change(phase=phase, doing=doing)
            self._send()

    def ran(self) -> None:
        """The source was asked for items; the first time, restoring is over."""
        if self._report.phase in {"starting", "restoring"}:
            self.enter("running")
        self.beat()

    def snapshot_is_durable(self) -> None:
        """One more epoch is done."""
        self._change(epochs=self._report.epochs + 1)

    def lag(self, reader: str, records: int, milliseconds: int) -> None:
        """Lag of one reader of this process, see `Report`."""
        with self._lock:
            self._lags[reader] = (records, milliseconds)
            lags = self._lags.values()
            self._report = msgspec.structs.replace(
                self._report, lag_records=sum(lag[0] for lag in lags), lag_ms=max(lag[1] for lag in lags)
            )

    def serves_metrics(self, address: str) -> None:
        """Where this process shows its metrics."""
        self._change(metrics=address)

    def give_up(self) -> None:
        """Starting again cannot help."""
        self._change(hopeless=True)
        self._send(even_if_ill=True)

    def _change(self, **changes: object) -> None:
        with self._lock:
            self._report = msgspec.structs.replace(self._report, **changes)

    def _send(self, *, even_if_ill: bool = False) -> None:
        if self._fd is None or not (even_if_ill or all(is_alive() for is_alive in self._organs)):
            return
        self._next_s = time.monotonic() + INTERVAL_S
        # Full: the supervisor is slow. Broken: it is gone, and the kernel is about to end us.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._fd, _ENCODER.encode(self._report) + b"\n")
