"""The processes of a flow for a person: those that are well in one line, the others one by one. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from datastreamx.cli.format import duration, plural
from datastreamx.cli.status.cells import Cell, trouble, versions
from datastreamx.cli.terminal import indented, table

_NOTHING = "-"


def render_cells(cells: Sequence[Cell], *, all_of_them: bool) -> list[RenderableType]:
    """A summary, and a table of those that are not well, or of all."""
    shown = cells if all_of_them else [cell for cell in cells if trouble(cell) is not None]
    parts: list[RenderableType] = [Text(f"  {_summary(cells)}")]
    if shown:
        numbers = ("Lag", "Age", "Restarts", "Snapshot")
        rows = table("Process", "Stage", *numbers, "Release", "Trouble", numbers=numbers)
        for cell in shown:
            rows.add_row(*_row(cell))
        parts.append(indented(rows))
    return parts


def _summary(cells: Sequence[Cell]) -> str:
    ready = sum(trouble(cell) is None for cell in cells)
    told = [f"{ready:,} of {plural(len(cells), 'process', 'processes')} ready"]
    answers = [cell.supervisor for cell in cells if cell.supervisor is not None]
    lags = [one.lag_records for one in answers if one.lag_records is not None]
    ages = [one.lag_ms for one in answers if one.lag_ms is not None]
    if lags and ages:
        told.append(f"lag at most {plural(max(lags), 'record')}, {duration(max(ages))}")
    if snapshots := [age for cell in cells if (age := cell.snapshot_age_ms) is not None]:
        told.append(f"snapshots at most {duration(max(snapshots))} old")
    if answers:
        told.append(plural(sum(one.restart_count for one in answers), "restart"))
        counts = versions(cells)
        numbers = [f"{version} ({count})" if len(counts) > 1 else version for version, count in counts.items()]
        told.append(f"release {', '.join(numbers)}")
    return "; ".join(told)


def _row(cell: Cell) -> list[str]:
    what = trouble(cell)
    why = "" if what is None else what.detail
    found = cell.supervisor
    if found is None:
        return [cell.name, *[_NOTHING] * 6, why]
    doing = f": {found.doing}" if found.doing else ""
    return [
        cell.name,
        f"{found.stage.replace('_', ' ')}{doing}, {duration(max(0, found.at_ms - found.since_ms))}",
        _NOTHING if found.lag_records is None else f"{found.lag_records:,}",
        _duration(found.lag_ms),
        f"{found.restart_count:,}",
        _duration(cell.snapshot_age_ms),
        found.version or _NOTHING,
        why,
    ]


def _duration(ms: int | None) -> str:
    return _NOTHING if ms is None else duration(ms)
