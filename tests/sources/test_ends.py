from __future__ import annotations

import threading

import pytest

from datastreamx.acks import AckedOffsets
from sources.kafka import ends
from sources.kafka.ends import LogEnds

WAIT_S = 10


def test_the_last_offset_before_each_end_is_noted_and_an_empty_partition_has_none() -> None:
    acked = AckedOffsets()
    LogEnds(lambda: {0: 5, 1: 0, 2: 1}, acked).refresh()
    assert acked.snapshot() == {0: 4, 2: 0}


def test_a_broker_that_tells_less_than_before_moves_no_mark_back() -> None:
    acked, told = AckedOffsets(), iter([{0: 5}, {0: 3}, {}])
    log_ends = LogEnds(lambda: next(told), acked)
    for _ in range(3):
        log_ends.refresh()
    assert acked.highest(0) == 4


def test_ends_are_asked_for_again_and_again_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "INTERVAL_S", 0.001)
    asked = threading.Semaphore(0)

    def ask() -> dict[int, int]:
        asked.release()
        return {}

    log_ends = LogEnds(ask, AckedOffsets())
    log_ends.start()
    for _ in range(3):
        assert asked.acquire(timeout=WAIT_S)
    log_ends.close()
    log_ends._thread.join(WAIT_S)
    assert not log_ends._thread.is_alive()
