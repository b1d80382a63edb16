"""What a benchmark found: JSON for machines, text for people, a chart, and a line in the table of all of them."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import msgspec

from benchmarks.contest import Standing
from benchmarks.machine import Spread
from flows.bench.machine import Machine, machine

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
TABLE_BEGINS, TABLE_ENDS = "<!-- table of results: begins -->", "<!-- table of results: ends -->"

OURS = "datastreamx"
"""Name of ourselves among contestants."""

_PACKAGES = ("bytewax", "confluent-kafka", "msgspec", "pyarrow", "google-cloud-bigquery-storage", "aiohttp")


class Comparison(msgspec.Struct, frozen=True):
    """Contestants that did the same work.

    Attributes:
        label: What this work was, e.g. `300,000 boxes`.
        unit: What is counted, in the plural.
        yardstick: The contestant whose ratio is 1.
    """

    label: str
    unit: str
    yardstick: str
    standings: list[Standing]

    def of(self, name: str) -> Standing:
        """One contestant."""
        return next(one for one in self.standings if one.name == name)


class Figure(msgspec.Struct, frozen=True):
    """A figure without a contestant, e.g. a pause in ms."""

    name: str
    unit: str
    value: Spread


class Goal(msgspec.Struct, frozen=True):
    """What should be, and what is. `at_least`: the figure should be no smaller than the target, otherwise no larger."""

    text: str
    target: float
    found: float
    at_least: bool = True

    @property
    def is_met(self) -> bool:
        """Whether it is as it should be."""
        return self.found >= self.target if self.at_least else self.found <= self.target


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark, once.

    Attributes:
        question: Its name.
        asks: What it wants to know, in one sentence.
        data: Shape of the data.
        notes: What a reader has to know to read the figures right.
    """

    question: str
    asks: str
    command: str
    data: str
    day: str
    machine: Machine
    versions: dict[str, str]
    comparisons: list[Comparison] = []
    figures: list[Figure] = []
    goals: list[Goal] = []
    notes: list[str] = []


def report(  # noqa: PLR0913 - one parameter per section, all by name
    *,
    question: str,
    asks: str,
    command: str,
    data: str,
    comparisons: Sequence[Comparison] = (),
    figures: Sequence[Figure] = (),
    goals: Sequence[Goal] = (),
    notes: Sequence[str] = (),
    versions: dict[str, str] | None = None,
) -> Report:
    """A report of this machine and day; `versions` are those that our own environment does not tell, e.g. of Flink."""
    own = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return Report(
        question=question,
        asks=asks,
        command=command,
        data=data,
        day=datetime.now(UTC).date().isoformat(),
        machine=machine(),
        versions={**own, **(versions or {})},
        comparisons=[*comparisons],
        figures=[*figures],
        goals=[*goals],
        notes=[*notes],
    )


def as_text(found: Report) -> str:
    """For people."""
    where = found.machine
    lines = [found.asks, f"{found.command}  on {where.cpu}, {where.cores} cores, Python {where.python}", found.data]
    for comparison in found.comparisons:
        lines += [
            "",
            f"{comparison.label}: {comparison.unit} per second, µs of CPU each, speed over {comparison.yardstick}",
        ]
        lines += [
            f"  {one.name:<28} {one.per_s.median:>12,.0f} {one.cpu_us.median:>8.2f} µs {one.speed.median:>7.2f}"
            f" ({one.speed.lowest:.2f} to {one.speed.highest:.2f}), {one.peak_mib.median:,.0f} MiB"
            for one in comparison.standings
        ]
    if found.figures:
        lines += ["", *(f"  {one.name}: {one.value} {one.unit}" for one in found.figures)]
    if found.goals:
        lines += ["", *(f"  {_sign(goal)} {_goal(goal)}" for goal in found.goals)]
    return "\n".join([*lines, *(f"  note: {note}" for note in found.notes)]) + "\n"


def save(found: Report, chart: Callable[[Report, Path], None] | None = None) -> None:
    """Write results and chart (bars of the comparisons unless `chart` draws another), and the table of all results."""
    RESULTS.mkdir(exist_ok=True)
    raw = msgspec.json.format(msgspec.json.encode(found), indent=1)
    (RESULTS / f"{found.question}.json").write_bytes(raw + b"\n")
    if chart is None and found.comparisons:
        chart = bars
    if chart is not None:
        chart(found, RESULTS / f"{found.question}.svg")
    write_table()


def bars(found: Report, path: Path) -> None:
    """Units per second of each contestant, one panel per comparison."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "datastreamx"  # without it the same data gives another file each time
    count = len(found.comparisons)
    figure, axes = plt.subplots(count, 1, squeeze=False, figsize=(8, 0.8 + 1.6 * count))
    for (axis,), comparison in zip(axes, found.comparisons, strict=True):
        names = [one.name for one in comparison.standings][::-1]
        rates = [one.per_s for one in comparison.standings][::-1]
        middles = [one.median for one in rates]
        ends = [[one.median - one.lowest for one in rates], [one.highest - one.median for one in rates]]
        axis.barh(
            names, middles, xerr=ends, color=["#2a6f97" if name == "datastreamx" else "#a9bcd0" for name in names]
        )
        axis.set_title(f"{comparison.label}: {comparison.unit} per second", fontsize=9)
        axis.grid(visible=True, axis="x", alpha=0.3)
        axis.xaxis.set_major_formatter("{x:,.0f}")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def write_table() -> None:
    """The table in the README of the benchmarks, from the results that are there."""
    found = [msgspec.json.decode(path.read_bytes(), type=Report) for path in sorted(RESULTS.glob("*.json"))]
    lines = ["| Benchmark | Goal | Found | |", "|---|---|---|---|"]
    for one in found:
        link = f"[{one.question}](results/{one.question}.json)"
        chart = f" [chart](results/{one.question}.svg)" if (RESULTS / f"{one.question}.svg").exists() else ""
        lines += [
            f"| {link}{chart} | {goal.text} {_bound(goal)} | {goal.found:,.4g} | {_sign(goal)} |" for goal in one.goals
        ]
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(TABLE_BEGINS)
    _, _, after = rest.partition(TABLE_ENDS)
    README.write_text(f"{before}{TABLE_BEGINS}\n\n" + "\n".join(lines) + f"\n\n{TABLE_ENDS}{after}", encoding="utf-8")


def _goal(goal: Goal) -> str:
    return f"{goal.text}: {goal.found:,.4g}, wanted {_bound(goal)}"


def _bound(goal: Goal) -> str:
    return f"{'≥' if goal.at_least else '≤'} {goal.target:,.4g}"


def _sign(goal: Goal) -> str:
    return "✓" if goal.is_met else "✗"


def parser(module: str, doc: str) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    found = argparse.ArgumentParser(
        prog=f"python -m {module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--quick", action="store_true", help="little work and one turn: to see that it runs")
    found.add_argument("--json", action="store_true", help="for machines")
    found.add_argument("--save", action="store_true", help="keep results and chart under benchmarks/results")
    return found


def conclude(found: Report, options: argparse.Namespace, chart: Callable[[Report, Path], None] | None = None) -> None:
    """Save if wanted, and print."""
    if options.save:
        save(found, chart)
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n" if options.json else as_text(found))
