"""Crash a flow at a chosen point: no final snapshot, nothing closed, as after `kill -9`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bytewax.inputs import AbortExecution, FixedPartitionedSource, StatefulSourcePartition


class CrashingSource(FixedPartitionedSource[Any, Any]):
    """Passes on what `inner` emits until `is_time` says so of the items that it is about to emit."""

    def __init__(self, inner: FixedPartitionedSource[Any, Any], is_time: Callable[[list[Any]], bool]) -> None:
        self._inner = inner
        self._is_time = is_time

    def list_parts(self) -> list[str]:
        return self._inner.list_parts()

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> _CrashingPartition:
        return _CrashingPartition(self._inner.build_part(step_id, for_part, resume_state), self._is_time)


class _CrashingPartition(StatefulSourcePartition[Any, Any]):
    def __init__(self, inner: StatefulSourcePartition[Any, Any], is_time: Callable[[list[Any]], bool]) -> None:
        self._inner = inner
        self._is_time = is_time

    def next_batch(self) -> Iterable[Any]:
        items = [*self._inner.next_batch()]
        if self._is_time(items):
            raise AbortExecution
        return items

    def snapshot(self) -> Any:
        return self._inner.snapshot()

    def close(self) -> None:
        self._inner.close()
