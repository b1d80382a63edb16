from __future__ import annotations

import pytest

from tests.k8s.podlet import Podlet
from tests.k8s.podlet.conftest import Ask, Cluster
from tests.k8s.podlet.manifest import Resource
from tests.k8s.podlet.manifests import policy, service, stateful_set

pytestmark = pytest.mark.podlet

DENY = policy("deny", policyTypes=["Ingress", "Egress"])
PEERS: Resource = {"podSelector": {"matchLabels": {"app": "web"}}}
HTTP: Resource = {"port": "http", "protocol": "TCP"}


def test_default_deny_stops_everything_but_probes(cluster: Cluster, ask: Ask, local_port: int) -> None:
    with cluster(service(), DENY, stateful_set(2)) as podlet:
        podlet.wait_ready()

        assert _status(podlet, f"{podlet.pod('web-1').address}:8080") == 502
        assert _status(podlet, f"{podlet.outside('outside', {80: local_port}).address}:80") == 502
        assert ask(podlet, "web-0", "/healthz") == "ok"


def test_peers_are_reached_at_the_named_port_when_both_sides_allow_it(cluster: Cluster) -> None:
    egress = policy("egress", policyTypes=["Egress"], egress=[{"to": [PEERS], "ports": [HTTP]}])
    ingress = policy("ingress", policyTypes=["Ingress"], ingress=[{"from": [PEERS], "ports": [HTTP]}])
    with cluster(service(), DENY, egress, stateful_set(2)) as podlet:
        podlet.wait_ready()
        target = f"{podlet.pod('web-1').address}:8080"
        assert _status(podlet, target) == 502

        podlet.apply([ingress])
        assert _status(podlet, target) == 200

        # Whoever comes later, with another address, is a peer, too.
        podlet.delete("web-1", grace_s=0)
        podlet.wait_gone(podlet.pod("web-1"))
        podlet.wait_ready()
        assert f"{podlet.pod('web-1').address}:8080" != target
        assert _status(podlet, f"{podlet.pod('web-1').address}:8080") == 200


def test_block_allows_its_addresses_at_its_port_and_not_its_exceptions(cluster: Cluster, local_port: int) -> None:
    def egress(**changes: object) -> Resource:
        block = {"ipBlock": {"cidr": "10.0.0.0/8", **changes}}
        return policy("egress", policyTypes=["Egress"], egress=[{"to": [block], "ports": [{"port": 80}]}])

    with cluster(DENY, egress(), stateful_set()) as podlet:
        podlet.wait_ready()
        address = podlet.outside("outside", {80: local_port, 81: local_port}).address

        assert [_status(podlet, f"outside:{port}") for port in (80, 81)] == [200, 502]

        podlet.apply([egress(**{"except": [f"{address}/32"]})])
        assert _status(podlet, "outside:80") == 502


def test_namespace_allows_what_stands_in_it(cluster: Cluster, local_port: int) -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "friends"}}}
    egress = policy("egress", policyTypes=["Egress"], egress=[{"to": [peer], "ports": [{"port": 80}]}])
    with cluster(DENY, egress, stateful_set()) as podlet:
        podlet.wait_ready()
        for namespace in ("friends", "strangers"):
            podlet.outside(namespace, {80: local_port}, namespace)

        assert [_status(podlet, f"{name}:80") for name in ("friends", "strangers")] == [200, 502]


def test_policy_concerns_only_the_pods_that_it_selects(cluster: Cluster, local_port: int) -> None:
    elsewhere = policy("deny", podSelector={"matchLabels": {"app": "other"}}, policyTypes=["Egress"])
    with cluster(elsewhere, stateful_set()) as podlet:
        podlet.wait_ready()

        podlet.outside("outside", {80: local_port})

        assert _status(podlet, "outside:80") == 200


def _status(podlet: Podlet, target: str) -> int:
    return podlet.get("web-0", f"/fetch?{target}", 8080)[0]
