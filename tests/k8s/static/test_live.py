"""What manifests, alerts and dashboard expect of a process that runs is what a process that runs does."""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase

import datastreamx.metrics
from tests.k8s.render import ENVIRONMENTS, K8S, ROOT, of_kind, parse
from tests.k8s.static.contract.model import FLOWS, Deployment
from tests.k8s.static.contract.ports import PROBES
from tests.k8s.static.environments import deployed
from tests.k8s.static.live import Family, Live, names_of, running
from tests.k8s.static.promql import Selector, grouped_labels, selectors
from tests.k8s.tally import Tally

# Everything is started anew, beside whatever else the machine does.
pytestmark = [pytest.mark.k8s, pytest.mark.timeout(600)]

# Of Google's own collection (kube-state-metrics of GKE), and what Prometheus says of targets and alerts.
_ELSEWHERE = {"ALERTS", "kube_cronjob_status_last_successful_time", "up"}
# Labels that a target has from the outside: PodMonitoring and Managed Service for Prometheus add them.
_OF_TARGETS = {"flow", "pod", "container", "node", "namespace", "cluster", "location", "project_id", "job", "instance"}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with running(tmp_path_factory.mktemp("live")) as flows:
        yield flows


@pytest.fixture(scope="module")
def series(live: Live) -> dict[str, list[Family]]:
    """What is shown, by name of the series, of all flows."""
    found: dict[str, list[Family]] = {}
    for flow in FLOWS:
        for family in live.families(flow):
            for name in family.names:
                found.setdefault(name, []).append(family)
    return found


def _alerts() -> dict[str, str]:
    """Expressions of the rules, by name."""
    return {
        rule.get("alert", rule.get("record")): rule["expr"]
        for resource in of_kind(parse((K8S / "alerts" / "rules.yaml").read_text(encoding="utf-8")), "Rules")
        for group in resource["spec"]["groups"]
        for rule in group["rules"]
    }


def _dashboards() -> dict[str, str]:
    """Expressions of the dashboards' panels and variables, by file and number."""
    return {
        f"{path.name} {number}": expression
        for path in sorted((K8S / "dashboards").glob("*.json"))
        for number, expression in enumerate(_expressions(json.loads(path.read_text(encoding="utf-8"))))
    }


def _expressions(found: Any) -> Iterator[str]:
    if isinstance(found, dict):
        for key, value in found.items():
            # A variable asks by `label_values(metric, label)`; the second is a label, and no series.
            if key in {"expr", "definition"} and isinstance(value, str):
                yield value.removeprefix("label_values(").rpartition(",")[0] if "label_values(" in value else value
            else:
                yield from _expressions(value)
    elif isinstance(found, list):
        for value in found:
            yield from _expressions(value)


EXPRESSIONS = {**_alerts(), **_dashboards()}
_RECORDED = {name for name in _alerts() if ":" in name}


def _problems(expression: str, series: dict[str, list[Family]]) -> list[str]:
    found = []
    labels = set(_OF_TARGETS)
    for selector in selectors(expression):
        if selector.metric in _ELSEWHERE | _RECORDED:
            labels |= grouped_labels(expression)
        elif selector.metric not in series:
            found.append(f"nobody shows {selector.metric}")
        else:
            known = _declared().get(selector.metric, set()).union(*(one.labels for one in series[selector.metric]))
            labels |= known
            found += [*_label_problems(selector, known), *_value_problems(selector, series)]
    return [*found, *(f"no series has the label {label}" for label in grouped_labels(expression) - labels)]


def _label_problems(selector: Selector, known: set[str]) -> Iterator[str]:
    for label, _, _ in selector.labels:
        if label not in known | _OF_TARGETS:
            yield f"{selector.metric} has no label {label}"


def _value_problems(selector: Selector, series: dict[str, list[Family]]) -> Iterator[str]:
    """A value that has not been seen has to stand in the program at least."""
    for label, operator, value in selector.labels:
        seen = {one for family in series[selector.metric] for one in family.labels.get(label, ())}
        known = {"flow": set(FLOWS)}.get(label, seen | _words())
        values = value.split("|") if operator in {"=~", "!~"} else [value]
        for one in values:
            # A variable of the dashboard, or a pattern: it may stand for anything.
            if re.fullmatch(r"\w+", one) and one not in known:
                yield f"{selector.metric}: {label} is never {one}"


@functools.cache
def _declared() -> dict[str, set[str]]:
    """Labels by name of the series, also of what has not happened yet."""
    metrics = [one for one in vars(datastreamx.metrics).values() if isinstance(one, MetricWrapperBase)]
    return {
        name: set(metric._labelnames)
        for metric in metrics
        for described in metric.describe()
        for name in names_of(described.name, described.type)
    }


@functools.cache
def _words() -> frozenset[str]:
    """Every text that stands in the program by itself, and what members of its enumerations are written as."""
    packages = ("aggregators", "datastreamx", "flows", "operators", "sinks", "sources")
    files = (path for package in packages for path in (ROOT / package).rglob("*.py"))
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    members = {
        target.id.lower()
        for node in nodes
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Enum") for base in node.bases)
        for one in node.body
        if isinstance(one, ast.Assign)
        for target in one.targets
        if isinstance(target, ast.Name)
    }
    return frozenset(texts | members)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_metrics_of_an_alert_or_panel_are_shown_by_a_flow_that_runs(
    name: str, series: dict[str, list[Family]], tally: Tally
) -> None:
    expression = EXPRESSIONS[name]
    assert not _problems(expression, series), expression
    tally("live /metrics", len(list(selectors(expression))))


def test_there_are_alerts_and_dashboards() -> None:
    assert _alerts()
    assert _dashboards()


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("rate(datastreamx_decision_total[5m]) > 0", "nobody shows datastreamx_decision_total"),
        ('sum(rate(datastreamx_decisions_total{state="won"}[5m]))', "has no label state"),
        ("sum by (aggregater) (rate(datastreamx_aggregator_outcomes_total[5m]))", "no series has the label aggregater"),
        ('sum(rate(datastreamx_decisions_total{status="wonn"}[5m]))', "status is never wonn"),
        ('datastreamx_worker_up{flow="auctions"}', "flow is never auctions"),
        ("histogram_quantile(0.9, rate(datastreamx_auction_latency_seconds_buckets[1m]))", "nobody shows"),
    ],
)
def test_mistake_in_an_expression_is_found(expression: str, problem: str, series: dict[str, list[Family]]) -> None:
    assert any(problem in one for one in _problems(expression, series))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_paths_of_probes_and_monitoring_are_served(environment: str, live: Live, tally: Tally) -> None:
    deployment = Deployment(environment, deployed(environment))
    asked = {
        (one.component, container[kind]["httpGet"]["path"])
        for one in deployment.flows
        for container in one.spec["containers"]
        for kind in PROBES
    }
    for monitor in deployment.of("PodMonitoring"):
        asked |= {
            (one.component, endpoint.get("path", "/metrics"))
            for one in deployment.selected(monitor["spec"]["selector"])
            for endpoint in monitor["spec"]["endpoints"]
        }
    assert {(flow, path): live.get(flow, path)[0] for flow, path in asked} == dict.fromkeys(asked, 200)
    tally("live probes", len(asked))


def test_path_that_nobody_serves_is_not_found(live: Live) -> None:
    assert live.get("ads", "/healthz")[0] == 404


def test_selectors_of_an_expression() -> None:
    expression = """
        sum by (le, pod) (rate(a_total{x="1", y=~"b|c"}[5m] offset 1d)) / on (pod) group_left() max(b_bytes) > 3 * 3600
        unless on () (c{} == 1) and time() - d > 1e3
    """
    assert [*selectors(expression)] == [
        Selector("a_total", (("x", "=", "1"), ("y", "=~", "b|c"))),
        Selector("b_bytes", ()),
        Selector("c", ()),
        Selector("d", ()),
    ]
    assert grouped_labels(expression) == {"le", "pod"}
