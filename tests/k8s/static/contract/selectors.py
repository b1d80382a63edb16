"""Selectors name the pods that they are meant for, all of them and no others."""

from __future__ import annotations

from tests.k8s.render import identity
from tests.k8s.static.contract.model import FLOWS, Deployment, Report, selects


def stateful_sets_select_their_pods(deployment: Deployment, report: Report) -> None:
    """A StatefulSet finds its own pods by its selector and those of nobody else; each flow has one."""
    names = [one.owner["metadata"]["name"] for one in deployment.flows]
    report.expect(sorted(names) == sorted(FLOWS), f"StatefulSets are {names}, and the flows {FLOWS}")
    for one in deployment.flows:
        found = [other.name for other in deployment.selected(one.owner["spec"]["selector"])]
        report.expect(found == [one.name], f"{one.name}: its selector finds {found}")
        report.expect(
            one.component == one.owner["metadata"]["name"], f"{one.name}: its pods say component {one.component}"
        )


def services_select_their_pods(deployment: Deployment, report: Report) -> None:
    """Each Service finds pods; a StatefulSet's own is headless, finds just its pods, unready ones included."""
    for service in deployment.of("Service"):
        found = deployment.selected({"matchLabels": service["spec"].get("selector", {})})
        report.expect(found, f"{identity(service)}: its selector finds no pods")
    for one in deployment.flows:
        name = one.owner["spec"]["serviceName"]
        named = deployment.named("Service", name)
        report.expect(named is not None, f"{one.name}: there is no Service {name}")
        if named is None:
            continue
        spec = named["spec"]
        found_names = [other.name for other in deployment.selected({"matchLabels": spec.get("selector", {})})]
        report.expect(found_names == [one.name], f"Service/{name}: finds {found_names} instead of {one.name}")
        report.expect(spec.get("clusterIP") == "None", f"Service/{name}: is not headless, so pods have no names")
        report.expect(
            spec.get("publishNotReadyAddresses"),
            f"Service/{name}: hides pods that are not ready, those to be looked at",
        )


def disruption_budgets_cover_each_flow(deployment: Deployment, report: Report) -> None:
    """Each flow has one budget, for its pods alone, that lets one go and never blocks a drain for good."""
    for one in deployment.flows:
        budgets = [
            budget
            for budget in deployment.of("PodDisruptionBudget")
            if selects(budget["spec"].get("selector", {}), one.labels)
        ]
        # With two budgets on a pod the eviction API refuses every eviction.
        report.expect(len(budgets) == 1, f"{one.name}: {len(budgets)} disruption budgets select its pods")
        for budget in budgets:
            found = [other.name for other in deployment.selected(budget["spec"]["selector"])]
            report.expect(found == [one.name], f"{identity(budget)}: selects {found}")
            report.expect(budget["spec"].get("maxUnavailable") == 1, f"{identity(budget)}: maxUnavailable is not 1")
            report.expect(
                budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow",
                f"{identity(budget)}: a pod that never becomes ready would block the drain of its node",
            )


def policies_select_pods(deployment: Deployment, report: Report) -> None:
    """A policy without pods protects nothing, and a peer without pods lets nobody through."""
    for policy in deployment.of("NetworkPolicy"):
        spec, name = policy["spec"], identity(policy)
        for selector in _alternatives(spec["podSelector"]):
            report.expect(deployment.selected(selector), f"{name}: {selector} finds no pods")
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction, ()):
                for peer in rule.get(side, ()):
                    if "podSelector" in peer and "namespaceSelector" not in peer:
                        for selector in _alternatives(peer["podSelector"]):
                            report.expect(deployment.selected(selector), f"{name}: {direction} peer finds no pods")


def _alternatives(selector: dict[str, object]) -> list[dict[str, object]]:
    """One selector for each value that an expression allows, so that a name nobody has any more is noticed."""
    expressions = selector.get("matchExpressions")
    if not isinstance(expressions, list):
        return [selector]
    return [
        {**selector, "matchExpressions": [{**expression, "values": [value]}, *expressions[:i], *expressions[i + 1 :]]}
        for i, expression in enumerate(expressions)
        if expression["operator"] == "In"
        for value in expression["values"]
    ] or [selector]


def monitoring_covers_each_flow(deployment: Deployment, report: Report) -> None:
    """Where there is monitoring it scrapes every flow, each once, and gives its pods the labels that rules use."""
    monitors = deployment.of("PodMonitoring")
    if deployment.environment != "dev":
        report.expect(monitors, "there is no PodMonitoring")
    for one in deployment.flows if monitors else ():
        found = [monitor for monitor in monitors if selects(monitor["spec"]["selector"], one.labels)]
        report.expect(len(found) == 1, f"{one.name}: {len(found)} PodMonitorings scrape its pods")
    for monitor in monitors:
        spec, name = monitor["spec"], identity(monitor)
        flows = [one for one in deployment.selected(spec["selector"]) if one not in deployment.flows]
        report.expect(not flows, f"{name}: scrapes {[one.name for one in flows]}, which serve no metrics")
        labels = spec.get("targetLabels", {})
        report.expect("pod" in labels.get("metadata", ()), f"{name}: series do not tell their pod")
        mapped = {one.get("to", one["from"]): one["from"] for one in labels.get("fromPod", ())}
        report.expect(
            mapped.get("flow") == "app.kubernetes.io/component", f"{name}: label flow is not taken from the component"
        )


def spread_counts_the_pods_of_the_flow(deployment: Deployment, report: Report) -> None:
    """A spread that counts other pods, or none, spreads nothing."""
    for one in deployment.flows:
        constraints = one.spec.get("topologySpreadConstraints", [])
        keys = {constraint["topologyKey"]: constraint for constraint in constraints}
        report.expect("kubernetes.io/hostname" in keys, f"{one.name}: is not spread over hosts")
        if deployment.environment == "prod":
            zone = keys.get("topology.kubernetes.io/zone", {})
            report.expect(
                zone.get("whenUnsatisfiable") == "DoNotSchedule", f"{one.name}: zones are not spread over for sure"
            )
        for constraint in constraints:
            place = f"{one.name}: spread over {constraint['topologyKey']}"
            extra = constraint.get("matchLabelKeys", [])
            report.expect(set(extra) <= one.labels.keys(), f"{place} names labels that its pods do not have: {extra}")
            selector = constraint.get("labelSelector", {})
            same = {"matchLabels": {key: one.labels[key] for key in extra if key in one.labels}}
            counted = [other.name for other in deployment.selected(selector) if selects(same, other.labels)]
            report.expect(counted == [one.name], f"{place} counts {counted}")
