"""What `bench` found."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from flows.bench.capacity import Capacity, Costs, Load, capacity
from flows.bench.machine import Machine


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the state, on one core.

    Attributes:
        events: Without those of the warm-up.
        snapshots: That were taken meanwhile.
        snapshots_cpu_s: What they took of `cpu_s`.
        snapshot_s: Pause of a snapshot of all boxes.
        snapshot_cpu_s: Its CPU.
        opportunities: Per event.
    """

    events: int
    wall_s: float
    cpu_s: float
    snapshots: int
    snapshots_cpu_s: float
    snapshot_s: float
    snapshot_cpu_s: float
    opportunities: float


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What the measuring process tells.

    Attributes:
        process_mib: Its memory before there was traffic and state.
        state_mib: The most that the state has added to it.
        call_cpu_us: CPU of one call of an aggregator, its share of the auction included.
    """

    boxes: int
    rounds: list[Round]
    process_mib: float
    state_mib: float
    call_cpu_us: float


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one core, and what follows for the machine.

    Attributes:
        cores: That may be used.
        measured_boxes: Size of the fleet that was measured.
        seconds: That were measured.
        core_share: Of its core that the measuring process has had; far below 1: something else was running.
        events_per_s: Of one core that does nothing else, snapshots included.
        event_cpu_us: Snapshots included, at full speed.
        snapshot_pause_ms: Of `measured_boxes`.
        calls_per_s: Of aggregators, by one core that does nothing else.
        aggregators: That are called in an auction.
        costs: What the capacities follow from.
        state: Boxes whose state can be kept.
        auctions: Boxes whose state can be kept and whose every opportunity can be auctioned.
    """

    machine: Machine
    cores: int
    measured_boxes: int
    seconds: float
    core_share: float
    events_per_s: float
    event_cpu_us: float
    snapshot_pause_ms: float
    snapshots: int
    opportunities_per_event: float
    call_cpu_us: float
    calls_per_s: float
    aggregators: int
    costs: Costs
    load: Load
    state: Capacity
    auctions: Capacity


def report_of(measured: Measured, machine: Machine, cores: int, aggregators: int) -> BenchReport:
    """What the rounds say, medians."""
    rounds = measured.rounds
    opportunities = _median([one.opportunities for one in rounds])
    costs = Costs(
        event_cpu_us=_median([(one.cpu_s - one.snapshots_cpu_s) / one.events * 1e6 for one in rounds]),
        snapshot_cpu_us=_median([one.snapshot_cpu_s / measured.boxes * 1e6 for one in rounds]),
        box_bytes=measured.state_mib * 2**20 / measured.boxes,
        process_mib=measured.process_mib,
        auctions_cpu_us=opportunities * aggregators * measured.call_cpu_us,
    )
    load = Load()
    no_auctions = msgspec.structs.replace(costs, auctions_cpu_us=0.0)
    return BenchReport(
        machine=machine,
        cores=cores,
        measured_boxes=measured.boxes,
        seconds=sum(one.wall_s for one in rounds),
        core_share=_median([one.cpu_s / one.wall_s for one in rounds]),
        events_per_s=_median([one.events / one.wall_s for one in rounds]),
        event_cpu_us=_median([one.cpu_s / one.events * 1e6 for one in rounds]),
        snapshot_pause_ms=_median([one.snapshot_s * 1000 for one in rounds]),
        snapshots=sum(one.snapshots for one in rounds),
        opportunities_per_event=opportunities,
        call_cpu_us=measured.call_cpu_us,
        calls_per_s=1e6 / measured.call_cpu_us,
        aggregators=aggregators,
        costs=costs,
        load=load,
        state=capacity(no_auctions, cores, machine.memory_mib, load),
        auctions=capacity(costs, cores, machine.memory_mib, load),
    )


def _median(figures: Sequence[float]) -> float:
    return statistics.median(figures)
