from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from datastreamx.interpreter import (
    load_without_garbage_collection,
    share_the_interpreter,
    spare_garbage_collection,
)


@pytest.fixture
def _collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("_collector")
def test_a_start_is_not_looked_through_for_cycles_and_what_it_made_never_is() -> None:
    load_without_garbage_collection()
    collections = sum(generation["collections"] for generation in gc.get_stats())
    made: list[list[object]] = [[] for _ in range(100_000)]
    assert sum(generation["collections"] for generation in gc.get_stats()) == collections

    spare_garbage_collection(is_fresh=True)
    assert gc.get_freeze_count() >= len(made)
    assert sum(generation["collections"] for generation in gc.get_stats()) == collections
    assert gc.isenabled()


@pytest.mark.usefixtures("_collector")
def test_cycles_that_a_running_process_leaves_are_found() -> None:
    spare_garbage_collection()
    found = sum(generation["collected"] for generation in gc.get_stats())
    for _ in range(100_000):
        cycle: list[object] = []
        cycle.append(cycle)
    assert sum(generation["collected"] for generation in gc.get_stats()) > found


def test_threads_take_turns_ten_times_as_often_as_by_default() -> None:
    before_s = sys.getswitchinterval()
    try:
        share_the_interpreter()
        assert sys.getswitchinterval() <= 0.0005
    finally:
        sys.setswitchinterval(before_s)
