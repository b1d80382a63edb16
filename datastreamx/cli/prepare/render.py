"""How the preparation of a store is told. Pure."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from datastreamx.cli.replay.report import lines as of_replay
from flows.prepare import Outcome, PrepareReport

_HEADS: dict[Outcome, str] = {
    "nothing": "nothing to do",
    "took_over": "took over the store",
    "rebuilt": "rebuilt the store",
    "stopped": "stopped",
}


def lines(report: PrepareReport) -> list[RenderableType]:
    """The report for a person."""
    return [Text(line) for line in _lines(report)]


def _lines(report: PrepareReport) -> list[str]:
    found = [f"{_HEADS[report.outcome]}: {report.reason}"]
    if report.keys is not None:
        found.append(f"{report.keys:,} keys, from {report.taken_from} to {report.store}")
    if report.set_aside is not None:
        found.append(f"what was there before is in {report.set_aside}")
    return found + (of_replay(report.replay) if report.replay is not None else [])
