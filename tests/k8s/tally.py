"""How much each tool has checked: counted by the tests, added up at the end of the run.

Counts travel as properties of the test's report, so they add up over the processes of pytest-xdist, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

import pytest

_KEY = "checks of a tool"


class Tally(Protocol):
    """Count `checks` that `tool` made for this test."""

    def __call__(self, tool: str, checks: int) -> None: ...


def tally_of(node: pytest.Item) -> Tally:
    """Make the counter of one test."""

    def count(tool: str, checks: int) -> None:
        if checks <= 0:
            raise AssertionError(f"{tool} checked nothing: a test that looks at nothing passes for nothing")
        node.user_properties.append((_KEY, f"{checks} {tool}"))

    return count


def totals(reports: Iterable[object]) -> Counter[str]:
    """Add up what the reports of tests say, by tool."""
    counts: Counter[str] = Counter()
    for report in reports:
        if not isinstance(report, pytest.TestReport) or report.when != "call":
            continue
        for key, value in report.user_properties:
            if key == _KEY:
                checks, tool = str(value).split(" ", 1)
                counts[tool] += int(checks)
    return counts


def table(counts: Counter[str]) -> str:
    """Lay the totals out, one tool a line."""
    width = max(map(len, counts), default=0)
    return "\n".join(f"{tool:<{width}}  {counts[tool]:>7,} checks" for tool in sorted(counts))
