from __future__ import annotations

from collections import Counter

import pytest

from tests.k8s.apiserver.client import Client
from tests.k8s.apiserver.environment import FLOWS, Environment
from tests.k8s.apiserver.nodes import ZONES, zone_of
from tests.k8s.render import Resource

pytestmark = pytest.mark.parametrize("flow", FLOWS)

_INDEX = "apps.kubernetes.io/pod-index"


def test_pods_are_called_by_flow_and_ordinal(flow: str, prod: Environment) -> None:
    names = {pod["metadata"]["name"] for pod in prod.pods(flow)}

    assert names == {f"{flow}-{ordinal}" for ordinal in range(prod.replicas(flow))}


def test_every_container_reads_its_ordinal_from_a_label_that_the_pod_has(flow: str, prod: Environment) -> None:
    for pod in prod.pods(flow):
        meta, spec = pod["metadata"], pod["spec"]
        assert meta["labels"][_INDEX] == meta["name"].rpartition("-")[2]
        for container in (*spec["initContainers"], *spec["containers"]):
            (ordinal,) = (entry for entry in container["env"] if entry["name"] == "DATASTREAMX_ORDINAL")
            assert ordinal["valueFrom"]["fieldRef"]["fieldPath"] == f"metadata.labels['{_INDEX}']"


def test_each_pod_has_a_volume_of_its_own_that_no_second_pod_may_mount(flow: str, prod: Environment) -> None:
    volumes = set()
    for pod in prod.pods(flow):
        claim = prod.get("PersistentVolumeClaim", f"recovery-{pod['metadata']['name']}")
        assert claim["status"]["phase"] == "Bound"
        assert claim["status"]["accessModes"] == ["ReadWriteOncePod"]
        volumes.add(claim["spec"]["volumeName"])

    assert len(volumes) == prod.replicas(flow)


def test_all_pods_share_the_handover_volume(flow: str, prod: Environment) -> None:
    claim = prod.get("PersistentVolumeClaim", "handover")

    assert claim["status"]["phase"] == "Bound"
    assert claim["status"]["accessModes"] == ["ReadWriteMany"]
    for pod in prod.pods(flow):
        claims = [
            v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v
        ]
        assert claims.count("handover") == 1


def test_pods_of_a_flow_are_spread_evenly_over_zones(flow: str, prod: Environment) -> None:
    zones = Counter(zone_of(pod["spec"]["nodeName"]) for pod in prod.pods(flow))

    assert set(zones) == set(ZONES)
    assert max(zones.values()) - min(zones.values()) <= 1


def test_pods_go_before_batch_work(flow: str, prod: Environment) -> None:
    assert {pod["spec"]["priority"] for pod in prod.pods(flow)} == {1_000_000}


def test_no_pod_of_a_flow_gets_a_token_of_the_api_server(flow: str, prod: Environment) -> None:
    """The admission adds one to every pod that does not say otherwise."""
    for pod in prod.pods(flow):
        assert not [v["name"] for v in pod["spec"]["volumes"] if "projected" in v]


def test_each_pod_has_a_name_in_dns_even_while_it_is_not_ready(flow: str, prod: Environment, client: Client) -> None:
    pods = {pod["metadata"]["name"] for pod in prod.pods(flow)}
    prod.say_ready(f"{flow}-0", ready=False)
    try:

        def named(slices: tuple[Resource, ...]) -> bool:
            conditions = {e["hostname"]: e["conditions"] for part in slices for e in part["endpoints"] or ()}
            published = {name for name, condition in conditions.items() if condition["ready"]}
            return published == pods and not conditions[f"{flow}-0"]["serving"]

        of_flow = f"kubernetes.io/service-name={flow}"
        client.until(prod.path("EndpointSlice"), named, selector=of_flow)
        (found,) = client.list(prod.path("EndpointSlice"), selector=of_flow)
        assert [(port["name"], port["port"]) for port in found["ports"]] == [("http", 9090)]
    finally:
        prod.say_ready(f"{flow}-0", ready=True)
        prod.until_ready(flow)
