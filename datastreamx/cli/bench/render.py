"""The report for a person. Pure."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from datastreamx.cli.bench.report import BenchReport
from datastreamx.cli.format import plural, size
from datastreamx.cli.terminal import indented, table
from flows.bench.capacity import USE, Capacity, roughly

QUIET = 0.85
"""Share of a core from which on the measurement had it to itself."""


def render(report: BenchReport) -> list[RenderableType]:
    """What the machine carries, then the figures that it follows from."""
    return [*(Text(line) for line in verdict(report)), Text(), *_figures(report)]


def verdict(report: BenchReport) -> list[str]:
    """In words."""
    machine = report.machine
    name = f"{plural(report.cores, 'core')}, {machine.cpu}, {size(machine.memory_mib * 2**20)}"
    found = [
        f"This machine ({name}) carries {_boxes(report.state)}: one event per box each "
        f"{report.load.event_interval_s:g} s, and a snapshot each {report.load.snapshot_interval_s:g} s. "
        f"{_limit(report.state)}"
    ]
    if report.costs.auctions_cpu_us:
        found.append(
            f"With an auction among {plural(report.aggregators, 'aggregator')} at every opportunity, "
            f"{report.opportunities_per_event:.0%} of the events, it carries {_boxes(report.auctions)}. "
            f"{_limit(report.auctions)}"
        )
    found.append(
        "Not counted: reading and writing Kafka, the warehouse and notices flows, and a broker on the same machine."
    )
    if report.core_share < QUIET:
        found.append(
            f"Something else was running: the measurement had {report.core_share:.0%} of its core. Measure again when "
            "the machine is quiet."
        )
    return found


def _boxes(found: Capacity) -> str:
    return f"about {plural(roughly(found.boxes), 'box', 'boxes')} in {plural(found.cells, 'cell')}"


def _share(found: Capacity) -> str:
    """The boxes of one of its cells."""
    return plural(roughly(found.boxes // found.cells), "box", "boxes")


def _limit(found: Capacity) -> str:
    if found.limit == "memory":
        return f"The limit is memory, of which {USE:.0%} is used."
    return f"Each core is busy {USE:.0%} of the time; the rest catches up after an outage."


def _figures(report: BenchReport) -> list[RenderableType]:
    costs = report.costs
    figures = table("one core", "", numbers=("",))
    for name, figure in (
        ("events per second, at full speed", f"{report.events_per_s:,.0f}"),
        ("CPU per event", f"{report.event_cpu_us:.2f} µs"),
        ("of it without snapshots", f"{costs.event_cpu_us:.2f} µs"),
        (f"snapshot of {plural(report.measured_boxes, 'box', 'boxes')}", f"{report.snapshot_pause_ms:,.0f} ms"),
        (f"the same of {_share(report.state)}", f"{report.state.snapshot_pause_ms:,.0f} ms"),
        ("memory per box", size(costs.box_bytes)),
        ("CPU per call of an aggregator", f"{report.call_cpu_us:.0f} µs"),
        ("calls per second, at full speed", f"{report.calls_per_s:,.0f}"),
    ):
        figures.add_row(name, figure)
    took = f"Measured for {report.seconds:.1f} s with {plural(report.snapshots, 'snapshot')}."
    return [indented(figures), Text(), Text(took)]
