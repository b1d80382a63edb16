"""Ends a flow as a crash would, only at a chosen moment: right after a snapshot, and without the end of input."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from bytewax.inputs import AbortExecution, FixedPartitionedSource, StatefulSourcePartition

X = TypeVar("X")


class LeavingSource(FixedPartitionedSource[X, bytes]):
    """Source that, when all of its parts have ended, waits for a durable snapshot and then leaves.

    At the end of input operators settle what they have in flight, and auctions wait for their deadlines. A flow that is
    left has all of it in its last snapshot instead, and whoever resumes from there goes on with it.

    Args:
        inner: Where items come from.
        passed: Told of every batch of items.
    """

    def __init__(
        self, inner: FixedPartitionedSource[X, bytes], passed: Callable[[list[X]], None] = lambda _: None
    ) -> None:
        self._inner = inner
        self._passed = passed
        self._exit = _Exit()

    def list_parts(self) -> list[str]:
        """As the inner source."""
        return self._inner.list_parts()

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> LeavingPartition[X]:
        """As the inner source; raises the same."""
        part = self._inner.build_part(step_id, for_part, resume_state)
        return LeavingPartition(part, self._exit, self._passed)


class LeavingPartition(StatefulSourcePartition[X, bytes], Generic[X]):
    """One part of the inner source."""

    def __init__(
        self, inner: StatefulSourcePartition[X, bytes], exit_: _Exit, passed: Callable[[list[X]], None]
    ) -> None:
        self._inner = inner
        self._exit = exit_
        self._passed = passed
        self._has_ended = False
        self._is_kept = False
        self._has_left = False
        exit_.enter()

    def next_batch(self) -> Iterable[X]:
        """What the inner part has; leaves when there is nothing left to keep.

        Raises:
            AbortExecution: All parts have ended, and a snapshot behind their last items is durable.
        """
        if self._is_kept and not self._has_left:
            # Asked again after the snapshot: Bytewax does so only when that is durable (decision 0003).
            self._has_left = True
            self._exit.leave()
        if self._exit.is_free:
            raise AbortExecution
        if self._has_ended:
            return []
        try:
            items = [*self._inner.next_batch()]
        except StopIteration:
            self._has_ended = True
            return []
        self._passed(items)
        return items

    def snapshot(self) -> bytes:
        """As the inner part."""
        state = self._inner.snapshot()
        self._is_kept = self._has_ended
        return state

    def close(self) -> None:
        """As the inner part."""
        self._inner.close()


class _Exit:
    """Opens when everybody who has entered wants to leave. Parts of several workers meet here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self.is_free = False

    def enter(self) -> None:
        with self._lock:
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            self.is_free = self._inside == 0
