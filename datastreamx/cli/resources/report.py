"""What exists, what has to be made, and how to say it. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec
from rich.console import RenderableType
from rich.text import Text

from datastreamx.cli.format import plural
from datastreamx.cli.output import Exit

State = Literal["ready", "planned", "changed", "unusable", "unreachable"]


class SystemReport(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two systems that hold resources.

    Attributes:
        state: `ready` (nothing to do), `planned`, `changed` (done just now), `unusable` (exists in a shape that cannot
            be changed, or the system refuses), `unreachable`.
        changes: One line each, in the order in which they are made.
        problem: Why it is unusable or unreachable.
    """

    name: str
    address: str
    state: State
    changes: list[str] = []
    problem: str | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Both systems."""

    kafka: SystemReport
    bigquery: SystemReport

    @property
    def systems(self) -> tuple[SystemReport, SystemReport]:
        """In the order in which they are shown."""
        return self.kafka, self.bigquery


def exit_code(report: Report) -> Exit:
    """Unreachable before unusable: what could not be asked may hide more."""
    states = {system.state for system in report.systems}
    if "unreachable" in states:
        return Exit.UNREACHABLE
    return Exit.FAILED if "unusable" in states else Exit.OK


def render(report: Report) -> list[RenderableType]:
    """The report for a person."""
    lines: list[RenderableType] = []
    for system in report.systems:
        lines.append(Text.assemble((system.name, "bold"), f" {system.address}"))
        if system.state == "ready":
            lines.append(Text("  ready, nothing to do", "green"))
        style = "yellow" if system.state == "planned" else "green"
        lines += [Text(f"  + {change}", style) for change in system.changes]
        if system.problem is not None:
            lines.append(Text(f"  ! {system.state}: {system.problem}", "red"))
    return [*lines, Text(summary(report))]


def summary(report: Report) -> str:
    """The last line."""
    planned = sum(len(system.changes) for system in report.systems if system.state == "planned")
    changed = sum(len(system.changes) for system in report.systems if system.state == "changed")
    failed = [system.name for system in report.systems if system.problem is not None]
    parts = []
    if planned:
        parts.append(f"{plural(planned, 'change')} to make, nothing was changed")
    if changed:
        parts.append(f"{plural(changed, 'change')} made")
    if failed:
        parts.append(f"no answer about {' and '.join(failed)}")
    return f"{'; '.join(parts) or 'Everything is in place'}."


def hint(report: Report) -> str:
    """What to do next."""
    if any(system.state == "unreachable" for system in report.systems):
        return "`datastreamx doctor` says what does not answer"
    if any(system.state == "unusable" for system in report.systems):
        return "follow the remedies above, then `datastreamx plan` again"
    if any(system.state == "planned" for system in report.systems):
        return "`datastreamx apply` makes these changes"
    return "`datastreamx run warehouse` and `datastreamx run ads`"
