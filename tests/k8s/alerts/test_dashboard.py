from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.alerts.promtool import promtool

pytestmark = pytest.mark.k8s

DASHBOARD = Path(__file__).parents[3] / "k8s" / "dashboards" / "datastreamx.json"

# What Grafana puts in their places.
_VARIABLES = {"$__rate_interval": "1m", "$flow": ".*", "$pod": ".*", "$aggregator": ".*"}


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in panels if panel["type"] != "row"]


def _expressions() -> list[str]:
    found = [target["expr"] for panel in _panels() for target in panel["targets"]]
    for name, value in _VARIABLES.items():
        found = [expression.replace(name, value) for expression in found]
    return found


def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path, tally: Callable[[str, int], None]) -> None:
    rules = [{"record": f"panel:{n}", "expr": expression} for n, expression in enumerate(_expressions())]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = promtool("check", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr
    tally("promtool check rules", len(rules))


def test_no_variable_is_left_that_grafana_would_not_know() -> None:
    assert [expression for expression in _expressions() if "$" in expression] == []


def test_panels_have_titles_of_their_own_and_do_not_overlap() -> None:
    panels = _panels()
    titles = [panel["title"] for panel in panels]
    assert len(set(titles)) == len(titles)
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(cells)) == len(cells)
