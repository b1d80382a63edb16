from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource
from bytewax.visualize import RenderedOperator, to_rendered

from datastreamx.acks import AckedOffsets
from datastreamx.clock import SystemClock
from datastreamx.config import NoticesConfig
from flows import ads, notices, replay, warehouse
from flows.ports.ads import AdsPorts, live_bidding_ports
from flows.ports.notices import NoticesPorts
from flows.ports.replay import RowsPorts
from flows.ports.warehouse import WarehousePorts
from operators.async_map.executor import Executor
from operators.notices.outbox import Reply
from operators.notices.sender import HttpSender
from operators.notices.step import NoticePorts
from tests.builders import config
from tests.flows.doubles import DecisionTopic

GOLDEN = Path(__file__).parent / "golden"
SCREEN_LINES = 40


def ads_flow() -> Dataflow:
    with ExitStack() as resources:
        bidding = live_bidding_ports(config(), DecisionTopic(), AckedOffsets(), resources, SystemClock())
        ports = AdsPorts(
            events=TestingSource([]),
            bidding=bidding,
            ad_push=TestingSink([]),
            facts=TestingSink([]),
            dead_letters=TestingSink([]),
        )
        return ads.build(config(), ports)


def warehouse_flow() -> Dataflow:
    return warehouse.build(config(), WarehousePorts(log=TestingSource([]), bigquery=TestingSink([])))


def notices_flow() -> Dataflow:
    clock = SystemClock()
    executor: Executor[Reply] = Executor(capacity=1, concurrency=1, clock=clock, name="notices")
    sending = NoticePorts(executor, HttpSender((), NoticesConfig()), clock)
    return notices.build(config(), NoticesPorts(log=TestingSource([]), sending=sending, dead_letters=TestingSink([])))


def replay_flow() -> Dataflow:
    ports = RowsPorts(log=TestingSource([]), bigquery=TestingSink([]), dead_letters=TestingSink([]))
    return replay.build(config(), ports)


NAMES = ["ads", "warehouse", "notices", "replay"]
FLOWS = pytest.mark.parametrize("make", [ads_flow, warehouse_flow, notices_flow, replay_flow], ids=NAMES)


def steps(flow: Dataflow) -> list[str]:
    """Id and kind of every step, nested ones included."""

    def walk(found: Sequence[RenderedOperator]) -> Iterator[str]:
        for step in found:
            yield f"{step.step_id} {step.op_type}"
            yield from walk(step.substeps)

    return list(walk(to_rendered(flow).substeps))


@FLOWS
def test_step_ids_and_kinds_are_an_interface(make: Callable[[], Dataflow]) -> None:
    flow = make()
    golden = GOLDEN / f"{flow.flow_id}.steps.txt"
    committed = golden.read_text().splitlines()
    current = steps(flow)
    gone, new = sorted(set(committed) - set(current)), sorted(set(current) - set(committed))
    assert current == committed, (
        f"\nThe steps of flow {flow.flow_id!r} have changed.\n"
        f"  gone: {gone}\n  new: {new}\n"
        "State is stored under step ids. A running deployment that resumes with this code silently loses the state of "
        "every stateful step that is gone, or whose kind changed (stateful_batch, input, output), while its sources go "
        "on where they were: boxes forget their channels, auctions in flight vanish, repeats are loaded twice.\n"
        "Restore the ids. If the change is meant, the release needs empty recovery stores and a replay from Kafka; say "
        f"so in the release notes and write the new steps into {golden.name}."
    )


STATEFUL = {
    "ads": {
        "ads.events",
        "ads.viewing.state",
        "ads.bidding.auctions.jobs",
    },
    "warehouse": {
        "warehouse.topics",
        "warehouse.repeats.marks",
        "warehouse.decisions.firsts",
        "warehouse.impressions.join",
        "warehouse.rollups.counts",
    },
    "notices": {
        "notices.topics",
        "notices.repeats.marks",
        "notices.decisions.firsts",
        "notices.impressions.join",
        "notices.send.outbox",
    },
    "replay": {
        "replay.topics",
        "replay.viewing.state",
        "replay.decisions.firsts",
        "replay.impressions.join",
        "replay.rollups.counts",
    },
}


@FLOWS
def test_every_stateful_step_is_known(make: Callable[[], Dataflow]) -> None:
    """Each of them has versioned snapshot bytes under test; a new one needs them, too."""
    flow = make()
    kinds = dict(step.split() for step in steps(flow))
    assert {step for step, kind in kinds.items() if kind in {"stateful_batch", "input"}} == STATEFUL[flow.flow_id]


@FLOWS
def test_flow_has_no_step_that_pickles_or_keeps_a_state_per_item(make: Callable[[], Dataflow]) -> None:
    slow = {"stateful", "stateful_map", "stateful_flat_map", "fold_window", "collect_window", "join", "reduce_final"}
    assert not slow & {step.split()[1] for step in steps(make())}


@FLOWS
def test_ids_are_unique(make: Callable[[], Dataflow]) -> None:
    ids = [step.split()[0] for step in steps(make())]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("module", [ads, warehouse, notices, replay], ids=NAMES)
def test_graph_fits_one_screen(module: ModuleType) -> None:
    lines = inspect.getsource(module.build).splitlines()
    assert len(lines) <= SCREEN_LINES, f"{module.__name__}.build has {len(lines)} lines; move detail into operators"
