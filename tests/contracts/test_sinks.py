"""What every sink promises: what it was given before a snapshot has landed, and a crash at any point loses nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, run_main

from simulator.bigquery.handle import LocalBigQuery
from tests.contracts.sink_cases import CASES, SinkCase
from tests.integration.brokers import Broker, running_broker
from tests.integration.crashes import CrashingSource

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running_broker(request, tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="module")
def bigquery_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBigQuery]:
    with LocalBigQuery(tmp_path_factory.mktemp("bigquery")) as running:
        yield running


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> SinkCase:
    make_case: Callable[[pytest.FixtureRequest], SinkCase] = CASES[request.param]
    return make_case(request)


def part_of(case: SinkCase, number: int, resume: Any = None) -> Any:
    """The part that takes item `number`."""
    sink = case.sink()
    names = sorted(sink.list_parts())
    return sink.build_part("out", names[sink.part_fn(case.item(number)[0]) % len(names)], resume)


def write(part: Any, case: SinkCase, *numbers: int) -> None:
    part.write_batch([case.item(number)[1] for number in numbers])


def show(part: Any, case: SinkCase) -> None:
    trailer = [item for _, item in case.trailer()]
    if trailer:
        part.write_batch(trailer)


def check(case: SinkCase, expected: range) -> None:
    landed = case.landed()
    # The order of first copies: a reader that drops repeats must see each item where it belongs.
    assert [*dict.fromkeys(landed)] == [*expected]
    if not case.may_repeat:
        assert len(landed) == len(expected)


def test_parts_are_the_same_for_every_worker_and_every_start(case: SinkCase) -> None:
    assert case.sink().list_parts() == case.sink().list_parts()
    key = case.item(0)[0]
    assert case.sink().part_fn(key) == case.sink().part_fn(key)


def test_a_snapshot_means_that_everything_has_landed_in_order_and_once(case: SinkCase) -> None:
    part = part_of(case, 0)
    for first in range(0, 60, 3):
        write(part, case, *range(first, first + 3))
    snapshot = part.snapshot()
    show(part, case)
    assert snapshot is None or isinstance(snapshot, bytes)
    assert case.landed() == [*range(60)]
    part.close()
    assert case.landed() == [*range(60)]


def test_a_snapshot_of_nothing_is_taken_at_once_and_can_be_resumed(case: SinkCase) -> None:
    part = part_of(case, 0)
    snapshot = part.snapshot()
    part.snapshot()
    part.close()
    part = part_of(case, 0, snapshot)
    write(part, case, 0)
    part.snapshot()
    show(part, case)
    part.close()
    check(case, range(1))


def test_a_resume_goes_on_behind_the_snapshot(case: SinkCase) -> None:
    part = part_of(case, 0)
    write(part, case, *range(5))
    snapshot = part.snapshot()
    show(part, case)
    part.close()
    part = part_of(case, 0, snapshot)
    write(part, case, *range(5, 10))
    part.snapshot()
    show(part, case)
    part.close()
    assert case.landed() == [*range(10)]


def test_writes_that_a_crash_cut_off_are_repeated_by_the_replay(case: SinkCase) -> None:
    part = part_of(case, 0)
    write(part, case, *range(5))
    snapshot = part.snapshot()
    write(part, case, *range(5, 8))
    del part  # as kill -9: neither snapshot nor close
    part = part_of(case, 0, snapshot)
    write(part, case, *range(5, 10))
    part.snapshot()
    show(part, case)
    part.close()
    check(case, range(10))


@pytest.mark.parametrize("crash_points", [(0,), (1,), (7,), (19,), (3, 4, 12)])
@pytest.mark.parametrize("epoch", [timedelta(0), timedelta(hours=1)], ids=["epoch_each_item", "epoch_never_ends"])
def test_a_flow_that_crashes_delivers_every_item(
    case: SinkCase, tmp_path: Path, crash_points: tuple[int, ...], epoch: timedelta
) -> None:
    script = [*(case.item(number) for number in range(20)), *case.trailer()]
    pending = list(crash_points)
    emitted = itertools.count()

    # Not TestingSource.ABORT: its place in the list counts after a resume, so a second one repeats an item.
    def is_time(items: list[Any]) -> bool:
        if items and pending and next(emitted) == pending[0]:
            pending.pop(0)
            return True
        return False

    init_db_dir(tmp_path, 1)
    # One start more than crashes needs: it repeats nothing, and shows what the last snapshot held.
    for _ in range(len(crash_points) + 2):
        flow = Dataflow("sink_contract")
        source = CrashingSource(TestingSource(script), is_time)
        op.output("out", op.input("in", flow, source), case.sink())
        run_main(flow, epoch_interval=epoch, recovery_config=RecoveryConfig(str(tmp_path)))
    assert not pending
    check(case, range(20))
