"""Ports by name exist where they are looked for, and all mean the port that the configuration opens."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from tests.k8s.render import Resource, identity
from tests.k8s.static.contract.model import FLOWS, Deployment, Report
from tests.k8s.static.workloads import Workload

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def ports_exist(deployment: Deployment, report: Report) -> None:
    """Services, probes, policies and monitoring name ports that the pods open."""
    for service in deployment.of("Service"):
        for one in deployment.selected({"matchLabels": service["spec"].get("selector", {})}):
            for port in service["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                number = one.port(target)
                report.expect(number is not None, f"{identity(service)}: {one.name} opens no port {target}")
                # A headless Service is a name alone: whoever uses it reaches the pod's own port.
                report.expect(
                    number == port["port"], f"{identity(service)}: port {port['port']} is {number} in the pod"
                )
    for one in deployment.workloads:
        _probe_ports(one, report)
    for monitor in deployment.of("PodMonitoring"):
        for one in deployment.selected(monitor["spec"]["selector"]):
            for endpoint in monitor["spec"]["endpoints"]:
                report.expect(
                    one.port(endpoint["port"]), f"{identity(monitor)}: {one.name} opens no port {endpoint['port']}"
                )
    for policy in deployment.of("NetworkPolicy"):
        _policy_ports(deployment, policy, report)


def _probe_ports(one: Workload, report: Report) -> None:
    for container in one.spec["containers"]:
        ports = container.get("ports", ())
        own = {port.get("name") for port in ports} | {port["containerPort"] for port in ports}
        for kind in PROBES:
            get = container.get(kind, {}).get("httpGet")
            if get is not None:
                report.expect(get["port"] in own, f"{one.name}: {kind} asks port {get['port']}, which is not open")


def _policy_ports(deployment: Deployment, policy: Resource, report: Report) -> None:
    def expect_open(pods: list[Workload], port: str | int) -> None:
        for one in pods:
            report.expect(one.port(port), f"{identity(policy)}: {one.name} opens no port {port}")

    spec = policy["spec"]
    for rule in spec.get("ingress", ()):
        for port in rule.get("ports", ()):
            expect_open(deployment.selected(spec["podSelector"]), port["port"])
    for rule in spec.get("egress", ()):
        peers = [
            one
            for peer in rule.get("to", ())
            if "podSelector" in peer and "namespaceSelector" not in peer
            for one in deployment.selected(peer["podSelector"])
        ]
        for port in rule.get("ports", ()):
            expect_open(peers, port["port"])
            # A name is looked up in the pods that are reached; other addresses have no names for ports.
            named = isinstance(port["port"], str)
            report.expect(not named or peers, f"{identity(policy)}: port {port['port']} by name, of no pod")


def endpoint_is_where_everybody_looks(deployment: Deployment, report: Report) -> None:
    """The program listens on all addresses at the port `http`, each container is asked three times, peers find each."""
    for one in deployment.flows:
        config = deployment.config(one) or {}
        metrics: dict[str, Any] = config.get("metrics", {})
        report.expect(
            metrics.get("host") == "0.0.0.0",  # noqa: S104  that is the point: a probe does not come from inside
            f"{one.name}: metrics.host is {metrics.get('host')}, which no probe reaches",
        )
        report.expect(
            metrics.get("port") == one.port("http"),
            f"{one.name}: metrics.port is {metrics.get('port')}, the port http {one.port('http')}",
        )
        (main,) = (container for container in one.spec["containers"] if container["name"] == one.component)
        for kind in PROBES:
            report.expect("httpGet" in main.get(kind, {}), f"{one.name}: has no {kind}")
        _peers(deployment, one, str(metrics.get("peers", "")), report)


def _peers(deployment: Deployment, one: Workload, template: str, report: Report) -> None:
    for flow in FLOWS:
        url = urlsplit(template.format(flow=flow, ordinal=0))
        host, port = url.hostname, url.port
        report.expect(host == f"{flow}-0.{flow}", f"{one.name}: metrics.peers finds {flow}-0 at {host}")
        owner = next((other for other in deployment.flows if other.component == flow), None)
        report.expect(
            owner is not None and port == owner.port("http"), f"{one.name}: metrics.peers asks {flow} at port {port}"
        )
        report.expect(
            owner is not None and owner.owner["spec"]["serviceName"] == flow,
            f"{one.name}: metrics.peers needs a Service {flow}",
        )
