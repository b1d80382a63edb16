"""How many boxes a machine carries, from what one core was measured to do. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

USE = 0.5
"""Of each core and of the memory; the rest of a core catches up after an outage as fast as new events arrive."""


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What boxes cost.

    Attributes:
        event_cpu_us: CPU of one event, apart from snapshots and auctions.
        snapshot_cpu_us: CPU of one snapshot, for each box in it.
        box_bytes: Resident memory of one box.
        process_mib: Resident memory of a process without boxes.
        auctions_cpu_us: CPU of the auctions that one event leads to, on average.
    """

    event_cpu_us: float
    snapshot_cpu_us: float
    box_bytes: float
    process_mib: float
    auctions_cpu_us: float = 0.0


class Load(msgspec.Struct, frozen=True):
    """What boxes do, and how often a snapshot is taken."""

    event_interval_s: float = 30.0
    snapshot_interval_s: float = 1.0


class Capacity(msgspec.Struct, frozen=True):
    """How many boxes, in how many cells, and what keeps them from being more.

    Attributes:
        events_per_s: Of all these boxes.
        snapshot_pause_ms: Of each cell with its share of these boxes; the CPU of a snapshot, as it has its core alone.
    """

    boxes: int
    cells: int
    limit: Literal["cpu", "memory"]
    events_per_s: float
    snapshot_pause_ms: float


def capacity(costs: Costs, cores: int, memory_mib: float, load: Load | None = None) -> Capacity:
    """One cell on each core, each of them busy for `USE` of the time, all in `USE` of the memory.

    A box costs a core its events and its place in each snapshot, which holds all boxes whether they have reported or
    not. So a core carries USE / ((event_cpu + auctions_cpu) / event_interval + snapshot_cpu / snapshot_interval) boxes.

    Args:
        costs: As measured.
        cores: Of the machine.
        memory_mib: Of the machine.
        load: `None`: an event per box each 30 s, a snapshot each second.
    """
    load = load or Load()
    event_us = costs.event_cpu_us + costs.auctions_cpu_us
    busy_us = event_us / load.event_interval_s + costs.snapshot_cpu_us / load.snapshot_interval_s
    by_cpu = int(cores * USE * 1e6 / busy_us)
    free_mib = max(0.0, memory_mib * USE - cores * costs.process_mib)
    by_memory = int(free_mib * 2**20 / costs.box_bytes)
    boxes = min(by_cpu, by_memory)
    return Capacity(
        boxes=boxes,
        cells=cores,
        limit="cpu" if by_cpu <= by_memory else "memory",
        events_per_s=boxes / load.event_interval_s,
        snapshot_pause_ms=boxes / cores * costs.snapshot_cpu_us / 1000,
    )


def roughly(boxes: int) -> int:
    """The first two digits: more would promise what no measurement of seconds can keep."""
    unit = int(f"1{'0' * max(0, len(str(boxes)) - 2)}")
    return boxes // unit * unit
