from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from tests.k8s.apiserver.client import STRATEGIC, Client
from tests.k8s.apiserver.environment import COMPONENT, NAMESPACE, Environment
from tests.k8s.apiserver.nodes import ZONES, nodes, zone_of
from tests.k8s.render import Resource, identity

# Pods with the rules of a flow and without its volumes, which would hold them where they are.
_PROBE = "spread-probe"


@pytest.fixture
def template(prod: Environment, client: Client) -> Iterator[Resource]:
    """The pod of the flow `ads` as the manifests have it, under another component."""
    (flow,) = (r for r in prod.resources if identity(r) == "StatefulSet/ads")
    template = copy.deepcopy(flow["spec"]["template"])
    template["metadata"]["labels"][COMPONENT] = _PROBE
    template["spec"]["volumes"].append({"name": "recovery", "emptyDir": {}})
    yield template
    for pod in prod.pods(_PROBE):
        client.delete(prod.path("Pod", pod["metadata"]["name"]))
    client.until(prod.path("Pod"), lambda pods: not pods, selector=f"{COMPONENT}={_PROBE}")


def test_a_pod_waits_for_room_in_its_zone_rather_than_join_another(
    prod: Environment, client: Client, template: Resource
) -> None:
    """Else the loss of a zone could take half of all cells."""
    full = ZONES[-1]
    _set_room(client, full, cpu="0")
    try:
        _start(client, template, 3)
        client.until(prod.path("Pod"), _one_cannot_be_placed, selector=f"{COMPONENT}={_PROBE}")
        assert sorted(_zones(prod)) == sorted(ZONES[:-1])
    finally:
        _set_room(client, full, cpu="8")

    _until_placed(prod, 3)
    assert sorted(_zones(prod)) == sorted(ZONES)


def test_pods_start_in_the_other_zones_while_one_is_down(prod: Environment, client: Client, template: Resource) -> None:
    """Without `nodeTaintsPolicy: Honor` a zone without usable nodes counts as an empty one, and all wait for it."""
    with prod.cordoned(ZONES[-1]):
        _start(client, template, 4)
        _until_placed(prod, 4)

        assert sorted(_zones(prod)) == sorted(ZONES[:-1] * 2)


def test_pods_share_no_node_while_another_has_room(prod: Environment, client: Client, template: Resource) -> None:
    names = [node["metadata"]["name"] for node in nodes()]

    _start(client, template, len(names))
    _until_placed(prod, len(names))

    assert sorted(map(_node, prod.pods(_PROBE))) == sorted(names)


def _start(client: Client, template: Resource, count: int) -> None:
    for index in range(count):
        meta = {**template["metadata"], "name": f"{_PROBE}-{index}", "namespace": NAMESPACE}
        client.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})


def _until_placed(prod: Environment, count: int) -> None:
    def placed(pods: tuple[Resource, ...]) -> bool:
        return len(list(filter(_node, pods))) == count

    prod.client.until(prod.path("Pod"), placed, selector=f"{COMPONENT}={_PROBE}")


def _set_room(client: Client, zone: str, *, cpu: str) -> None:
    for node in nodes():
        name = node["metadata"]["name"]
        if zone_of(name) == zone:
            room = {"status": {"allocatable": {"cpu": cpu}}}
            client.patch(client.path("v1", "Node", name=name, part="status"), room, content=STRATEGIC)


def _node(pod: Resource) -> str:
    return str(pod["spec"].get("nodeName", ""))


def _one_cannot_be_placed(pods: tuple[Resource, ...]) -> bool:
    refused = [c for pod in pods for c in pod["status"].get("conditions", ()) if c.get("reason") == "Unschedulable"]
    return len(refused) == 1 and len([pod for pod in pods if _node(pod)]) == len(pods) - 1


def _zones(prod: Environment) -> list[str]:
    return [zone_of(_node(pod)) for pod in prod.pods(_PROBE) if _node(pod)]
