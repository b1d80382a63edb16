"""What fleets of other sizes need and cost, on paper: measured figures times stated traffic and prices.

    python -m benchmarks.model [--write]

`--write` puts the tables into docs/scaling.md, between their markers. A figure comes from benchmarks/results/*.json
where the benchmark has been saved there, else from a short run or an estimate; the table of figures says which. The
arithmetic is pure: no clock, no file, no network.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "scaling.md"
BEGINS, ENDS = "<!-- model: begins -->", "<!-- model: ends -->"

FLEETS = (30_000, 300_000, 3_000_000, 30_000_000)
HOURS = 730
"""Of a month."""
SECONDS = HOURS * 3600
GIB, MIB, TIB = 2**30, 2**20, 2**40
READ = "23 November 2026"
"""When the prices were looked up, in stored copies of the pages that docs/scaling.md names."""
WAREHOUSE_TABLES = 7
_LINEAR_BOXES = 300_000
"""Above, a cell has no time left between its pauses, and what it shows is a queue."""


class Value(NamedTuple):
    """A number and where it is from."""

    number: float
    unit: str
    source: str


# What goes in ----------------------------------------------------------------------------------------------------


class Traffic(msgspec.Struct, frozen=True):
    """What boxes do; assumptions of the model."""

    seconds_per_event: Value = Value(30, "s between two events of a box", "assumed: the traffic of all benchmarks")
    auctions_per_event: Value = Value(0.05, "auctions per event", "assumed; the benchmarks' traffic has up to 0.13")
    calls_per_auction: Value = Value(3, "aggregators asked per auction", "assumed")
    displays_per_event: Value = Value(0.03, "displayed ads per event", "assumed: six auctions in ten are won")
    sessions_per_day: Value = Value(4, "viewing sessions per box and day", "assumed")
    peak: Value = Value(2, "times the average in the busiest hour", "assumed; of Kafka, its price list's 50 % load")
    channels: Value = Value(200, "channels", "assumed: the traffic of all benchmarks")
    event_bytes: Value = Value(
        150, "bytes of an event in Kafka", "125 of key and value, measured; the rest are headers"
    )
    decision_bytes: Value = Value(
        1_310, "bytes of a decision in Kafka", "three aggregators, LZ4: tests/kernel/golden/decision-v2.json"
    )
    retention_days: Value = Value(90, "days that tables are kept", "assumed")


class Costs(msgspec.Struct, frozen=True):
    """What one unit takes."""

    event_us: Value = Value(12, "µs of CPU per event, ads flow without calls", "estimate; `benchmarks.kafka` unsaved")
    call_us: Value = Value(115, "µs of CPU per call of an aggregator", "65 to 165; docs/auction.md")
    row_us: Value = Value(4, "µs of CPU per row, warehouse flow", "estimate; `benchmarks.warehouse` unsaved")
    box_bytes: Value = Value(605, "bytes of memory per box", "one run; `benchmarks.recovery`")
    cell_mib: Value = Value(300, "MiB of a cell without boxes", "one run; `benchmarks.recovery`")
    pause_ms: Value = Value(5, "ms of pause per epoch, whatever the boxes", "short runs; `benchmarks.recovery`")
    pause_ms_per_box: Value = Value(0.0005, "ms of pause per epoch and box", "short runs; `benchmarks.recovery`")
    resume_s: Value = Value(1.3, "s of resume, whatever the boxes", "one run; `benchmarks.recovery`")
    resume_s_per_box: Value = Value(0.0000026, "s of resume per box", "one run; `benchmarks.recovery`")
    second_cell: Value = Value(1.0, "rate of a cell beside a busy one over its rate alone", "estimate")
    facts_row_bytes: Value = Value(72, "bytes of a fact in a large message, LZ4", "measured on the benchmarks' traffic")
    facts_message_bytes: Value = Value(530, "bytes that each message of facts adds", "likewise")
    event_row_bytes: Value = Value(
        131, "logical bytes of a row of box_events", "likewise, by BigQuery's sizes of types"
    )
    bid_row_bytes: Value = Value(200, "logical bytes of a row of bids", "assumed, from its columns")
    decision_row_bytes: Value = Value(700, "logical bytes of a row of ad_decisions", "assumed, from its columns")
    other_row_bytes: Value = Value(130, "logical bytes of a row of any other table", "assumed, from their columns")


class Prices(msgspec.Struct, frozen=True):
    """List prices in dollars, region us-central1, without discounts."""

    vcpu_h: Value = Value(0.0445, "$ per vCPU and hour, GKE Autopilot", "[1], from memory: check")
    gib_h: Value = Value(0.0049225, "$ per GiB and hour, GKE Autopilot", "[1], from memory: check")
    cluster_h: Value = Value(0.10, "$ per cluster and hour, GKE", "[1]")
    kafka_mib_s: Value = Value(110, "$ per month and MiB/s produced, 3 replicas, 24 h kept", "[2]: $1,100 for 10 MiB/s")
    kafka_least: Value = Value(197, "$ per month of the smallest cluster: 3 vCPU, 12 GiB", "[2]: 3 DCU at $0.09")
    kafka_gib_month: Value = Value(0.10, "$ per GiB and month kept beyond 24 h", "[2], from memory: check")
    ingest_gib: Value = Value(0.025, "$ per GiB through the Storage Write API", "[3]")
    ingest_free_tib: Value = Value(2, "TiB a month without charge", "[3]")
    storage_gib_month: Value = Value(0.02, "$ per GiB and month, logical, touched within 90 days", "[3]")


class Plan(msgspec.Struct, frozen=True):
    """What we want of a cell."""

    pause_ms: Value = Value(50, "ms of pause that a cell may have", "chosen: a fortieth of `decision_budget_ms`")
    resume_s: Value = Value(3, "s of resume that a cell may take", "chosen")
    cell_gib: Value = Value(4, "GiB that a cell may have", "chosen: what Autopilot gives one vCPU without rounding")
    cpu_share: Value = Value(0.5, "share of a core that a cell may use at the peak", "chosen: the rest catches up")
    memory_slack: Value = Value(1.5, "times the memory that was measured", "chosen: restoring and bursts")
    kafka_hours: Value = Value(72, "hours that topics are kept", "`kafka.retention_hours`")
    coalesce_s: Value = Value(0.2, "s that rows wait for others of their message", "sinks/facts/coalesce.py")
    warehouse_vcpu: Value = Value(0.5, "vCPU requested at least by each warehouse and notices process", "chosen")
    warehouse_gib: Value = Value(1, "GiB requested by each of them", "chosen")


# What comes out --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """What a fleet needs and costs.

    Attributes:
        limit: What bounds the boxes of a cell: pause, resume, memory or CPU.
        cells: Of each flow; a divisor of `partitions`.
        ads_cores: Used by all cells of the ads flow in the busiest hour.
        call_share: Of these, what calls to aggregators take.
        kafka_mib_s: Produced on average.
    """

    boxes: int
    partitions: int
    events_s: float
    auctions_s: float
    calls_s: float
    rows_s: float
    limit: str
    cells: int
    ads_cores: float
    call_share: float
    warehouse_cores: float
    cell_gib: float
    pause_ms: float
    resume_s: float
    kafka_mib_s: float
    facts_rows_per_message: float
    warehouse_gib_month: float
    stored_tib: float
    compute_usd: float
    kafka_usd: float
    ingest_usd: float
    storage_usd: float

    @property
    def boxes_per_cell(self) -> float:
        """All cells have the same share."""
        return self.boxes / self.cells

    @property
    def total_usd(self) -> float:
        """Per month, queries and network not included."""
        return self.compute_usd + self.kafka_usd + self.ingest_usd + self.storage_usd


def partitions_for(boxes: int) -> int:
    """A number with many divisors, so that many numbers of cells share it equally: 240 has 20 of them, 960 has 28."""
    return 240 if boxes <= FLEETS[2] else 960


def divisor_from(partitions: int, least: float) -> int:
    """Smallest divisor of `partitions` that is not below `least`.

    Raises:
        ValueError: More cells are needed than there are partitions.
    """
    if least > partitions:
        raise ValueError(f"{least:.0f} cells cannot share {partitions} partitions")
    return next(one for one in range(max(1, math.ceil(least)), partitions + 1) if partitions % one == 0)


def size(boxes: int, traffic: Traffic, costs: Costs, prices: Prices, plan: Plan) -> Size:
    """Everything about a fleet of `boxes`.

    Raises:
        ValueError: More cells are needed than there are partitions.
    """
    partitions = partitions_for(boxes)
    events_s = boxes / traffic.seconds_per_event.number
    auctions_s = events_s * traffic.auctions_per_event.number
    calls_s = auctions_s * traffic.calls_per_auction.number
    displays_s = events_s * traffic.displays_per_event.number
    sessions_s = boxes * traffic.sessions_per_day.number / 86_400
    # Each partition counts for itself: one row per minute, channel, and aggregator or none.
    lines = partitions * traffic.channels.number * (1 + traffic.calls_per_auction.number) / 60
    rollups_s = min(lines, events_s + calls_s)
    rows_s = events_s + auctions_s + calls_s + displays_s + sessions_s + rollups_s

    calls_cores = calls_s * costs.call_us.number / 1e6 * traffic.peak.number
    ads_cores = calls_cores + events_s * costs.event_us.number / 1e6 * traffic.peak.number
    warehouse_cores = rows_s * costs.row_us.number / 1e6 * traffic.peak.number
    limit, most = _most_boxes(ads_cores / boxes, costs, plan)
    cells = divisor_from(partitions, boxes / most)
    share = boxes / cells
    used_gib = (costs.cell_mib.number * MIB + share * costs.box_bytes.number) / GIB
    cell_gib = max(1.0, math.ceil(used_gib * plan.memory_slack.number * 4) / 4)

    per_message = max(1.0, events_s * plan.coalesce_s.number / partitions)
    fact_bytes = costs.facts_row_bytes.number + costs.facts_message_bytes.number / per_message
    bytes_s = (
        events_s * (traffic.event_bytes.number + fact_bytes)
        + sessions_s * (costs.facts_row_bytes.number + costs.facts_message_bytes.number)
        + auctions_s * traffic.decision_bytes.number
    )
    logical_s = (
        events_s * costs.event_row_bytes.number
        + calls_s * costs.bid_row_bytes.number
        + auctions_s * costs.decision_row_bytes.number
        + (displays_s + sessions_s + rollups_s) * costs.other_row_bytes.number
    )
    month_gib = logical_s * SECONDS / GIB
    stored_gib = logical_s * traffic.retention_days.number * 86_400 / GIB

    # The warehouse and the notices flow have as many processes as the ads flow: one setting for all.
    other_vcpu = 2 * max(plan.warehouse_vcpu.number, _quarters(warehouse_cores / cells / plan.cpu_share.number))
    hourly = cells * (
        prices.vcpu_h.number * (1 + other_vcpu) + prices.gib_h.number * (cell_gib + 2 * plan.warehouse_gib.number)
    )
    kept_gib = bytes_s * max(0.0, plan.kafka_hours.number - 24) * 3600 / GIB
    return Size(
        boxes=boxes,
        partitions=partitions,
        events_s=events_s,
        auctions_s=auctions_s,
        calls_s=calls_s,
        rows_s=rows_s,
        limit=limit,
        cells=cells,
        ads_cores=ads_cores,
        call_share=calls_cores / ads_cores,
        warehouse_cores=warehouse_cores,
        cell_gib=cell_gib,
        pause_ms=costs.pause_ms.number + share * costs.pause_ms_per_box.number,
        resume_s=costs.resume_s.number + share * costs.resume_s_per_box.number,
        kafka_mib_s=bytes_s / MIB,
        facts_rows_per_message=per_message,
        warehouse_gib_month=month_gib,
        stored_tib=stored_gib / 1024,
        compute_usd=(hourly + prices.cluster_h.number) * HOURS,
        kafka_usd=max(prices.kafka_least.number, bytes_s / MIB * prices.kafka_mib_s.number)
        + kept_gib * prices.kafka_gib_month.number,
        ingest_usd=max(0.0, month_gib - prices.ingest_free_tib.number * 1024) * prices.ingest_gib.number,
        storage_usd=stored_gib * prices.storage_gib_month.number,
    )


def _most_boxes(cores_per_box: float, costs: Costs, plan: Plan) -> tuple[str, float]:
    """What bounds the boxes of a cell first, and at how many."""
    bounds = {
        "pause": (plan.pause_ms.number - costs.pause_ms.number) / costs.pause_ms_per_box.number,
        "resume": (plan.resume_s.number - costs.resume_s.number) / costs.resume_s_per_box.number,
        "memory": (plan.cell_gib.number * GIB / plan.memory_slack.number - costs.cell_mib.number * MIB)
        / costs.box_bytes.number,
        "CPU": plan.cpu_share.number * costs.second_cell.number / cores_per_box,
    }
    return min(bounds.items(), key=lambda bound: bound[1])


def _quarters(vcpu: float) -> float:
    return math.ceil(vcpu * 4) / 4


# Measured figures ------------------------------------------------------------------------------------------------


class _Middle(msgspec.Struct):
    median: float


class _Figure(msgspec.Struct):
    name: str
    value: _Middle


class _Standing(msgspec.Struct):
    name: str
    cpu_us: _Middle
    speed: _Middle


class _Comparison(msgspec.Struct):
    label: str
    standings: list[_Standing]


class _Result(msgspec.Struct):
    """What we need of `benchmarks.report.Report`, without what it imports."""

    day: str
    comparisons: list[_Comparison] = []
    figures: list[_Figure] = []


def measured(results: Path) -> Costs:
    """Figures of the benchmarks that are saved there; for the others, the defaults of `Costs`."""
    usual, found = Costs(), dict[str, Value]()

    def take(field: str, number: float | None, benchmark: str, day: str) -> None:
        if number is not None:
            found[field] = Value(number, getattr(usual, field).unit, f"`benchmarks.{benchmark}`, {day}")

    kafka, warehouse = _result(results, "kafka"), _result(results, "warehouse")
    scale, recovery = _result(results, "scale"), _result(results, "recovery")
    if kafka is not None:
        take("event_us", _cpu_us(kafka, "", "whole flow"), "kafka", kafka.day)
    if warehouse is not None:
        take("row_us", _cpu_us(warehouse, "78 rows", "warehouse flow"), "warehouse", warehouse.day)
    if scale is not None:
        two, half = (_speed(scale, name) for name in ("two cells", "half a cell"))
        take("second_cell", min(1.0, two / (2 * half)) if two and half else None, "scale", scale.day)
    if recovery is not None:
        for prefix, suffix, fixed, sloped in (
            ("pause at ", ": p99", "pause_ms", "pause_ms_per_box"),
            ("resume at ", "", "resume_s", "resume_s_per_box"),
        ):
            line = fit([one for one in _by_boxes(recovery, prefix, suffix) if one[0] <= _LINEAR_BOXES])
            if line is not None:
                take(fixed, line[0], "recovery", recovery.day)
                take(sloped, line[1], "recovery", recovery.day)
        memory = _by_boxes(recovery, "memory at ", "")
        if memory:
            take("box_bytes", max(memory)[1], "recovery", recovery.day)
    return Costs(**found)


def fit(points: Sequence[tuple[int, float]]) -> tuple[float, float] | None:
    """Least squares: what does not depend on the boxes, at least 0, and what each adds; `None` below two points."""
    if len(points) < 2:  # noqa: PLR2004  a line
        return None
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    slope = sum((x - middle_x) * (y - middle_y) for x, y in points) / sum((x - middle_x) ** 2 for x, _ in points)
    return max(0.0, middle_y - slope * middle_x), slope


def _result(results: Path, name: str) -> _Result | None:
    path = results / f"{name}.json"
    return msgspec.json.decode(path.read_bytes(), type=_Result) if path.exists() else None


def _standing(result: _Result, label: str, name: str) -> _Standing | None:
    return next(
        (
            one
            for comparison in result.comparisons
            if label in comparison.label
            for one in comparison.standings
            if one.name.startswith(name)
        ),
        None,
    )


def _cpu_us(result: _Result, label: str, name: str) -> float | None:
    found = _standing(result, label, name)
    return None if found is None else found.cpu_us.median


def _speed(result: _Result, name: str) -> float | None:
    found = _standing(result, "", name)
    return None if found is None else found.speed.median


def _by_boxes(result: _Result, prefix: str, suffix: str) -> list[tuple[int, float]]:
    """(boxes, figure) of the figures named `PREFIX 30,000 boxesSUFFIX`."""
    found = []
    for figure in result.figures:
        boxes, middle, rest = figure.name.removeprefix(prefix).partition(" boxes")
        if figure.name.startswith(prefix) and middle and rest == suffix:
            found.append((int(boxes.replace(",", "")), figure.value.median))
    return found


# Tables ----------------------------------------------------------------------------------------------------------


def tables(traffic: Traffic, costs: Costs, prices: Prices, plan: Plan) -> str:
    """What docs/scaling.md shows."""
    sizes = [size(boxes, traffic, costs, prices, plan) for boxes in FLEETS]

    def row(name: str, texts: Sequence[str]) -> str:
        return f"| {name} | " + " | ".join(texts) + " |"

    head = [row("", [f"{one.boxes:,} boxes" for one in sizes]), "|---" + "|---:" * len(sizes) + "|"]
    needs = [
        row("Events per second, average", [f"{one.events_s:,.0f}" for one in sizes]),
        row("Auctions, calls per second", [f"{one.auctions_s:,.0f}, {one.calls_s:,.0f}" for one in sizes]),
        row("Partitions", [f"{one.partitions}" for one in sizes]),
        row("**Cells** of each flow", [f"**{one.cells:,}**" for one in sizes]),
        row("Boxes per cell", [f"{one.boxes_per_cell:,.0f}" for one in sizes]),
        row("What bounds a cell", [one.limit for one in sizes]),
        row("Cores used by ads cells, peak", [f"{one.ads_cores:,.2f}" for one in sizes]),
        row("of which calls", [f"{one.call_share:.0%}" for one in sizes]),
        row("Cores used by warehouse cells, peak", [f"{one.warehouse_cores:,.2f}" for one in sizes]),
        row("Memory per ads cell, GiB", [f"{one.cell_gib:g}" for one in sizes]),
        row("Pause per second, ms", [f"{one.pause_ms:,.0f}" for one in sizes]),
        row("Resume of a cell, s", [f"{one.resume_s:,.1f}" for one in sizes]),
        row("Produced to Kafka, MiB/s", [f"{one.kafka_mib_s:,.2f}" for one in sizes]),
        row("Facts per message", [f"{one.facts_rows_per_message:,.0f}" for one in sizes]),
        row("Rows to BigQuery per second", [f"{one.rows_s:,.0f}" for one in sizes]),
        row("Write streams to BigQuery", [f"{one.cells * WAREHOUSE_TABLES:,}" for one in sizes]),
        row("Landed a month, TiB", [f"{one.warehouse_gib_month / 1024:,.2f}" for one in sizes]),
        row("Stored, TiB", [f"{one.stored_tib:,.1f}" for one in sizes]),
    ]
    bill = [
        row("Kubernetes", [f"{one.compute_usd:,.0f}" for one in sizes]),
        row("Kafka", [f"{one.kafka_usd:,.0f}" for one in sizes]),
        row("BigQuery, ingest", [f"{one.ingest_usd:,.0f}" for one in sizes]),
        row("BigQuery, storage", [f"{one.storage_usd:,.0f}" for one in sizes]),
        row("**Total**", [f"**{one.total_usd:,.0f}**" for one in sizes]),
        row("Cents per box", [f"{one.total_usd / one.boxes * 100:.2f}" for one in sizes]),
    ]
    return "\n\n".join(
        [
            "### Needs",
            "\n".join([*head, *needs]),
            "### Dollars a month",
            "\n".join([*head, *bill]),
            "### Figures and assumptions",
            "\n".join([*_inputs(traffic, costs, plan)]),
            f"### Prices, looked up {READ}",
            "\n".join([*_inputs(prices)]),
        ]
    )


def _inputs(*groups: Traffic | Costs | Prices | Plan) -> list[str]:
    lines = ["| Value | What | Source |", "|---:|---|---|"]
    for group in groups:
        for field in group.__struct_fields__:
            value: Value = getattr(group, field)
            lines.append(f"| {value.number:.4g} | {value.unit} | {value.source} |")
    return lines


def write(document: Path, text: str) -> None:
    """Put `text` between the markers.

    Raises:
        ValueError: The markers are not there.
    """
    whole = document.read_text(encoding="utf-8")
    before, begins, rest = whole.partition(BEGINS)
    _, ends, after = rest.partition(ENDS)
    if not begins or not ends:
        raise ValueError(f"{document} lacks {BEGINS} or {ENDS}")
    document.write_text(f"{before}{BEGINS}\n\n{text}\n\n{ENDS}{after}", encoding="utf-8")


def main() -> int:
    """Print, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md")
    options = parser.parse_args()
    text = tables(Traffic(), measured(RESULTS), Prices(), Plan())
    if options.write:
        write(DOCUMENT, text)
    else:
        sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
