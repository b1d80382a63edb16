"""promtool evaluates the rules over series: each alert fires when it should, says what it should, else is silent."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.alerts.cases import CASES, Case
from tests.k8s.alerts.promtool import promtool

pytestmark = pytest.mark.k8s

ROOT = Path(__file__).parents[3]
RULES = ROOT / "k8s" / "alerts" / "rules.yaml"
RUNBOOK = ROOT / "docs" / "runbook.md"


def _groups() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["spec"]["groups"]
    return groups


ALERTS = {rule["alert"]: rule for group in _groups() for rule in group["rules"] if "alert" in rule}


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The rules as Prometheus reads them, without the Kubernetes object around them."""
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": _groups()}))
    return path


def _unit_test(rules: Path, case: Case) -> Path:
    def series(of: dict[str, str]) -> list[dict[str, str]]:
        return [{"series": name, "values": values} for name, values in of.items()]

    rule = ALERTS[case.alert]
    expected = {
        "exp_labels": {**rule["labels"], **case.labels},
        "exp_annotations": {**rule["annotations"], "summary": case.summary},
    }
    asked = {"eval_time": f"{case.at}m", "alertname": case.alert}
    tests = [
        {
            "interval": "1m",
            "input_series": series(case.fires),
            "alert_rule_test": [{**asked, "exp_alerts": [expected]}],
        },
        {"interval": "1m", "input_series": series(case.silent), "alert_rule_test": [{**asked, "exp_alerts": []}]},
    ]
    path = rules.with_name("test.yaml")
    path.write_text(
        yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}, sort_keys=False)
    )
    return path


def test_promtool_accepts_the_rules(rules: Path, tally: Callable[[str, int], None]) -> None:
    done = promtool("check", "rules", rules)
    assert done.returncode == 0, done.stdout + done.stderr
    tally("promtool check rules", sum(len(group["rules"]) for group in _groups()))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_alert_fires_when_it_should_and_else_is_silent(
    case: Case, rules: Path, tally: Callable[[str, int], None]
) -> None:
    done = promtool("test", "rules", _unit_test(rules, case))
    assert done.returncode == 0, done.stdout + done.stderr
    tally("promtool test rules", 2)


def test_each_alert_has_a_case() -> None:
    assert {case.alert for case in CASES} == set(ALERTS)


def test_each_alert_has_an_entry_in_the_runbook() -> None:
    entries = set(re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE))
    assert set(ALERTS) <= entries


def test_each_alert_says_who_is_woken() -> None:
    assert {rule["labels"]["severity"] for rule in ALERTS.values()} == {"page", "ticket"}


def test_only_summaries_are_templates() -> None:
    """Descriptions are compared with nothing but themselves."""
    assert [name for name, rule in ALERTS.items() if "{{" in rule["annotations"]["description"]] == []
