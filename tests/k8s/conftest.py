from __future__ import annotations

from contextlib import suppress

import pytest

from tests.k8s.tally import Tally, table, tally_of, totals
from tests.k8s.tools import ToolError, tool

_NEEDED = {
    "k8s": ("kustomize", "kubeconform", "kube-score", "checkov"),
    "apiserver": ("kustomize", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"),
    "podlet": ("kustomize",),
    "image": ("kustomize", "cyclonedx-py"),
}
"""One tool of each lock at least, by the marker of those that need it."""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make tools that are not there yet before the first test, whose time limit is for the test."""
    if session.config.option.collectonly:
        return
    markers = {mark.name for item in session.items for mark in item.iter_markers()}
    for name in dict.fromkeys(name for marker in _NEEDED if marker in markers for name in _NEEDED[marker]):
        # The tests that need it will say so, and why.
        with suppress(ToolError):
            tool(name)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Count what a tool has checked in this test: `tally("kubeconform", 42)`."""
    return tally_of(request.node)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = totals(report for reports in terminalreporter.stats.values() for report in reports)
    if counts:
        terminalreporter.section("checks per tool")
        terminalreporter.write_line(table(counts))
