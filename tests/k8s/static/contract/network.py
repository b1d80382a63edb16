"""Who reaches whom: policies read as a cluster reads them, and asked about every dependency that a configuration names.

A rule of a policy without peers or without ports means all of them; several policies of a pod add up
(https://kubernetes.io/docs/concepts/services-networking/network-policies/).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.k8s.static.contract.model import FLOWS, NAMESPACE, Deployment, Report, selects, variables
from tests.k8s.static.workloads import Workload

_COLLECTOR = "collector"
_NAME_OF_NAMESPACE = "kubernetes.io/metadata.name"

# Any address of the internet, and one of a private network that nobody has named.
PUBLIC = "8.8.8.8"
PRIVATE = "10.255.255.1"
# https://cloud.google.com/vpc/docs/configure-private-google-access: private.googleapis.com.
GOOGLE_APIS = "199.36.153.8"
METADATA = "169.254.169.254"
DNS_OF_THE_NODE = "169.254.20.10"


@dataclass(frozen=True, slots=True)
class End:
    """One end of a connection.

    Attributes:
        name: As messages say it.
        address: If it is no pod.
        host: The name by which it is looked up.
        labels: If it is a pod: its labels.
        namespace: If it is a pod: the name of its namespace.
        somewhere_private: Its address is not known here, only that it is one of our networks'.
    """

    name: str
    address: str | None = None
    host: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str | None = None
    somewhere_private: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """An end, and the port that is asked for there."""

    end: End
    port: int
    protocol: str = "TCP"

    def __str__(self) -> str:
        return f"{self.end.name}:{self.port}/{self.protocol}"


def everything_is_denied_that_is_not_named(deployment: Deployment, report: Report) -> None:
    """A policy without rules covers every pod in both directions."""
    denied = {
        direction
        for policy in deployment.of("NetworkPolicy")
        if policy["spec"]["podSelector"] == {} and not {"ingress", "egress"} & policy["spec"].keys()
        for direction in policy["spec"]["policyTypes"]
    }
    report.expect(denied == {"Ingress", "Egress"}, f"denied by default are {sorted(denied)}")
    for policy in deployment.of("NetworkPolicy"):
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, ()):
                name = policy["metadata"]["name"]
                report.expect(rule.get(side), f"NetworkPolicy/{name}: {direction} names nobody, so it means everybody")
                report.expect(rule.get("ports"), f"NetworkPolicy/{name}: {direction} names no port, so it means all")
                # Rules of a direction that the policy does not have are read and ignored.
                kind = direction.capitalize()
                report.expect(kind in policy["spec"]["policyTypes"], f"NetworkPolicy/{name}: has rules, and no {kind}")


def every_dependency_is_reached(deployment: Deployment, report: Report) -> None:
    """Each pod reaches whatever its configuration names, and those whom it serves reach it."""
    for one in deployment.workloads:
        for target in dependencies(deployment, one):
            report.expect(leaves(deployment, one, target), f"{one.name}: no policy lets it reach {target}")
    askers = [one for one in deployment.workloads if one in deployment.flows or one.component == _COLLECTOR]
    for one in deployment.flows:
        for other in askers:
            end = End(other.name, labels=other.labels, namespace=NAMESPACE)
            lets_in = enters(deployment, end, one, one.port("http") or 0)
            report.expect(lets_in, f"{one.name}: does not let {other.name} ask it")
    for namespace in ("gmp-system", "gke-gmp-system") if deployment.of("PodMonitoring") else ():
        for one in deployment.flows:
            end = End("the collectors", namespace=namespace)
            report.expect(
                enters(deployment, end, one, one.port("http") or 0), f"{one.name}: does not let {namespace} scrape it"
            )


def nothing_else_is_reached(deployment: Deployment, report: Report) -> None:
    """A pod that was taken over gets no further than its dependencies."""
    public, private = End("the internet", address=PUBLIC), End("a private network", address=PRIVATE)
    for one in deployment.workloads:
        wanted = [*dependencies(deployment, one)]
        may_leave = any(target.end.address == PUBLIC for target in wanted)
        strangers = [
            *([] if may_leave else [Target(public, 443)]),
            Target(public, 80),
            Target(public, 25),
            Target(private, 443),
            Target(private, 22),
            Target(End("the metadata server", address=METADATA), 443),
            Target(End("a pod next door", labels={"app": "other"}, namespace="default"), 443),
        ]
        if not any(target.end.name == "the API server" for target in wanted):
            strangers += [Target(end, 443) for end in _api_servers(deployment)]
        if not any(target.end.name.startswith("Kafka") for target in wanted):
            strangers.append(Target(private, 9092))
        for target in strangers:
            report.expect(not leaves(deployment, one, target), f"{one.name}: may reach {target}, and need not")


def only_those_come_in_who_have_to(deployment: Deployment, report: Report) -> None:
    """Nobody else in the cluster reaches a pod; the port of the exchange is open to the same flow alone."""
    outside = [
        End("a pod next door", labels={"app": "other"}, namespace="default"),
        End("a pod that borrows our labels", labels=deployment.flows[0].labels, namespace="default"),
        End("the internet", address=PUBLIC),
    ]
    for one in deployment.workloads:
        idle = [End(two.name, labels=two.labels, namespace=NAMESPACE) for two in deployment.workloads]
        askers = {two.name for two in deployment.workloads if two in deployment.flows or two.component == _COLLECTOR}
        not_asking = [end for end in idle if end.name not in askers]
        for port in _open_ports(one) or [9090]:
            others = [end for end in idle if end.name != one.name] if port == one.port("exchange") else not_asking
            for end in (*outside, *others):
                report.expect(not enters(deployment, end, one, port), f"{one.name}: lets {end.name} in at port {port}")


def dependencies(deployment: Deployment, one: Workload) -> Iterator[Target]:
    """Everything that a workload has to reach."""
    for protocol in ("UDP", "TCP"):
        yield Target(End("DNS of the node", address=DNS_OF_THE_NODE), 53, protocol)
        yield Target(End("Cloud DNS", address=METADATA), 53, protocol)
        yield Target(End("kube-dns", labels={"k8s-app": "kube-dns"}, namespace="kube-system"), 53, protocol)
    config = deployment.config(one)
    if config is not None:
        yield from _configured(deployment, one, config)
    for container in one.containers:
        if (receiver := variables(container).get("OTLP_ENDPOINT")) is not None:
            url = urlsplit(receiver)
            yield Target(_end("the receiver of metrics", url.hostname or ""), url.port or 443)
    yield from _peers(deployment, one)
    if one.spec.get("automountServiceAccountToken"):
        for end in _api_servers(deployment):
            yield Target(End("the API server", address=end.address), 443)


def _configured(deployment: Deployment, one: Workload, config: Mapping[str, Any]) -> Iterator[Target]:
    for host in config["kafka"]["bootstrap"].split(","):
        name, _, port = host.strip().rpartition(":")
        yield Target(_end(f"Kafka at {name}", name, hosted=True), int(port))
    yield from _aggregators(one, config)
    yield from _bigquery(one, config["bigquery"])
    if config["kafka"].get("oauth") == "google" or _account(deployment, one):
        yield Target(End("the metadata server", address=METADATA), 80)
        # Where the node answers for it, in the clusters of GKE without Dataplane V2.
        yield Target(End("the metadata server of the node", address="169.254.169.252"), 988)
    yield from _handover(deployment, one)


def _peers(deployment: Deployment, one: Workload) -> Iterator[Target]:
    """The flows, which ask each other for their status, and the collector of their metrics."""
    if one not in deployment.flows and one.component != _COLLECTOR:
        return
    for other in deployment.flows:
        end = End(other.name, labels=other.labels, namespace=NAMESPACE)
        yield Target(end, other.port("http") or 0)
        if other is one and (exchange := one.port("exchange")) is not None:
            yield Target(end, exchange)


def _aggregators(one: Workload, config: Mapping[str, Any]) -> Iterator[Target]:
    for aggregator in config.get("aggregators", ()):
        url = urlsplit(aggregator["url"])
        if one.component == "ads":
            port = url.port or {"https": 443, "http": 80}[url.scheme]
            yield Target(_end(aggregator["name"], url.hostname or ""), port)
        if one.component == "notices":
            public = aggregator.get("notice_network", "public") == "public"
            for host in aggregator.get("notice_hosts", ()) if aggregator.get("notices") else ():
                # Of others the address comes with the bid; the simulator's are those that it bids at.
                yield Target(_end(f"notices of {host}", host), 443 if public else url.port or 80)


def _bigquery(one: Workload, config: Mapping[str, Any]) -> Iterator[Target]:
    if one.component not in {"warehouse", "apply"}:
        return
    rest, grpc = config.get("rest_endpoint"), config.get("grpc_endpoint")
    if rest is None:
        yield Target(End("BigQuery", address=GOOGLE_APIS), 443)
    else:
        url = urlsplit(rest)
        yield Target(_end("BigQuery", url.hostname or ""), url.port or 443)
    if grpc is not None:
        name, _, port = grpc.rpartition(":")
        yield Target(_end("BigQuery's write API", name), int(port))


def _handover(deployment: Deployment, one: Workload) -> Iterator[Target]:
    """A sidecar in the pod, under the pod's policies, speaks to the bucket behind a mount."""
    for volume in one.spec.get("volumes", ()):
        name = volume.get("persistentVolumeClaim", {}).get("claimName", "")
        claim = deployment.named("PersistentVolumeClaim", name) or {"spec": {}}
        behind = deployment.named("PersistentVolume", claim["spec"].get("volumeName", "")) or {"spec": {}}
        if behind["spec"].get("csi", {}).get("driver") == "gcsfuse.csi.storage.gke.io":
            yield Target(End("Cloud Storage", address=GOOGLE_APIS), 443)


def _account(deployment: Deployment, one: Workload) -> bool:
    """Whether the pod acts as a Google service account."""
    account = deployment.named("ServiceAccount", one.spec.get("serviceAccountName", ""))
    return account is not None and "iam.gke.io/gcp-service-account" in account["metadata"].get("annotations", {})


def _end(name: str, host: str, *, hosted: bool = False) -> End:
    """What a host name of a configuration stands for: `kafka.datastreamx-dev` a Service, all else an address."""
    labels = host.split(".")
    if len(labels) == 2:
        return End(name, namespace=labels[1])
    return End(name, somewhere_private=True) if hosted else End(name, address=PUBLIC, host=host)


def _api_servers(deployment: Deployment) -> list[End]:
    policies = [one for one in deployment.of("NetworkPolicy") if one["metadata"]["name"] == "egress-api-server"]
    return [
        End("the API server", address=str(next(ipaddress.ip_network(peer["ipBlock"]["cidr"]).hosts())))
        for policy in policies
        for rule in policy["spec"]["egress"]
        for peer in rule["to"]
    ]


def _open_ports(one: Workload) -> list[int]:
    return [port["containerPort"] for container in one.containers for port in container.get("ports", ())]


def leaves(deployment: Deployment, one: Workload, target: Target) -> bool:
    """Whether the policies of a workload's pods let it reach a target."""
    peers = deployment.selected({"matchLabels": target.end.labels}) if target.end.labels else []
    if any(
        _is_port(rule, target.port, target.protocol, peers) and _is_peer(rule.get("to"), target.end)
        for rule in _rules(deployment, one, "Egress")
    ):
        return True
    by_name = [
        rule
        for policy in deployment.of("FQDNNetworkPolicy")
        if selects(policy["spec"]["podSelector"], one.labels)
        for rule in policy["spec"]["egress"]
    ]
    return any(_is_port(rule, target.port, target.protocol, []) and target.end.host in _names(rule) for rule in by_name)


def _names(rule: Mapping[str, Any]) -> set[str]:
    return {match["name"] for match in rule["matches"] if "name" in match}


def enters(deployment: Deployment, end: End, one: Workload, port: int) -> bool:
    """Whether the policies of a workload's pods let somebody in."""
    return any(
        _is_port(rule, port, "TCP", [one]) and _is_peer(rule.get("from"), end)
        for rule in _rules(deployment, one, "Ingress")
    )


def _rules(deployment: Deployment, one: Workload, direction: str) -> Iterator[Mapping[str, Any]]:
    for policy in deployment.of("NetworkPolicy"):
        spec = policy["spec"]
        if direction in spec["policyTypes"] and selects(spec["podSelector"], one.labels):
            yield from spec.get(direction.lower(), ())


def _is_port(rule: Mapping[str, Any], port: int, protocol: str, pods: list[Workload]) -> bool:
    """Whether a rule names the port, by number or by the name that it has in the pods that are reached."""
    for one in rule.get("ports", ()):
        numbers = (
            {pod.port(one["port"]) for pod in pods} if isinstance(one.get("port"), str) else {one.get("port", port)}
        )
        last = one.get("endPort")
        in_range = last is not None and one["port"] <= port <= last
        if one.get("protocol", "TCP") == protocol and (port in numbers or in_range):
            return True
    return not rule.get("ports")


def _is_peer(peers: list[Mapping[str, Any]] | None, end: End) -> bool:
    return not peers or any(_matches(peer, end) for peer in peers)


def _matches(peer: Mapping[str, Any], end: End) -> bool:
    if "ipBlock" in peer:
        block = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        if end.somewhere_private:
            return block.is_private and block.prefixlen > 0
        excepted = [ipaddress.ip_network(one) for one in peer["ipBlock"].get("except", ())]
        address = None if end.address is None else ipaddress.ip_address(end.address)
        return address is not None and address in block and not any(address in one for one in excepted)
    if end.namespace is None:
        return False
    namespaces = peer.get("namespaceSelector")
    is_there = (
        end.namespace == NAMESPACE if namespaces is None else selects(namespaces, {_NAME_OF_NAMESPACE: end.namespace})
    )
    # Of an end that is known by its namespace alone, any pod will do.
    return is_there and ("podSelector" not in peer or selects(peer["podSelector"], end.labels))


assert set(FLOWS) == {"ads", "warehouse", "notices"}, "say above what a new flow depends on"
