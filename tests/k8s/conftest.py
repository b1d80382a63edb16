from __future__ import annotations

import pytest

from tests.k8s.tally import Tally, table, tally_of, totals


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Count what a tool has checked in this test: `tally("kubeconform", 42)`."""
    return tally_of(request.node)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = totals(report for reports in terminalreporter.stats.values() for report in reports)
    if counts:
        terminalreporter.section("checks per tool")
        terminalreporter.write_line(table(counts))
