"""Signals as something to wait for, together with a pipe."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType
from typing import Self

_AWAITED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Signals:
    """SIGTERM, SIGINT and SIGCHLD wake `wait` instead of interrupting; a context manager for the main thread.

    Python's handlers run between two instructions of whatever is going on; a byte in a pipe waits for its turn.
    """

    def __enter__(self) -> Self:
        self._out, self._in = os.pipe()
        for end in (self._out, self._in):
            os.set_blocking(end, False)
        self._previous_fd = signal.set_wakeup_fd(self._in, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, _ignore) for number in _AWAITED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._out)
        os.close(self._in)

    def wait(self, pipe: int | None, timeout_s: float) -> list[signal.Signals]:
        """Until a signal comes, `pipe` can be read, or `timeout_s` is over; the requests to end since the last call."""
        awaited = [self._out] if pipe is None else [self._out, pipe]
        ready, _, _ = select.select(awaited, [], [], timeout_s)
        if self._out not in ready:
            return []
        numbers = [signal.Signals(number) for number in os.read(self._out, 4_096)]
        return [number for number in numbers if number is not signal.SIGCHLD]


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Python wants a handler of its own for the byte to be written."""
