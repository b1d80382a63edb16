from __future__ import annotations

from tests.k8s.apiserver.client import Client
from tests.k8s.apiserver.environment import COMPONENT, Environment
from tests.k8s.apiserver.nodes import ZONE_LABEL, zone_of
from tests.k8s.render import identity

_FLOW = "warehouse"


def test_a_cell_that_was_scaled_away_leaves_its_volume_and_finds_it_again(prod: Environment, client: Client) -> None:
    prod.until_ready(_FLOW)
    volumes = _volumes(prod)
    few, many = 3, prod.replicas(_FLOW)

    client.patch(prod.path("StatefulSet", _FLOW), {"spec": {"replicas": few}})
    client.until(prod.path("Pod"), lambda pods: len(pods) == few, selector=f"{COMPONENT}={_FLOW}")
    assert _volumes(prod) == volumes

    client.patch(prod.path("StatefulSet", _FLOW), {"spec": {"replicas": many}})
    prod.until_ready(_FLOW)
    assert _volumes(prod) == volumes
    for pod in prod.pods(_FLOW):
        assert zone_of(pod["spec"]["nodeName"]) == _zone(prod, volumes[f"recovery-{pod['metadata']['name']}"])


def test_a_flow_that_was_deleted_leaves_all_its_volumes_and_finds_them_again(prod: Environment, client: Client) -> None:
    prod.until_ready(_FLOW)
    volumes = _volumes(prod)
    (flow,) = (r for r in prod.resources if identity(r) == f"StatefulSet/{_FLOW}")

    client.delete(prod.path("StatefulSet", _FLOW))
    client.until(prod.path("Pod"), lambda pods: not pods, selector=f"{COMPONENT}={_FLOW}")
    assert _volumes(prod) == volumes

    client.apply(flow)
    prod.until_ready(_FLOW)
    assert _volumes(prod) == volumes


def _volumes(prod: Environment) -> dict[str, str]:
    """The volumes of the flow's claims."""
    claims = prod.client.list(prod.path("PersistentVolumeClaim"))
    names = {claim["metadata"]["name"]: claim["spec"].get("volumeName", "") for claim in claims}
    return {name: volume for name, volume in names.items() if name.startswith(f"recovery-{_FLOW}-")}


def _zone(prod: Environment, volume: str) -> str:
    spec = prod.client.get(prod.client.path("v1", "PersistentVolume", name=volume))["spec"]
    (term,) = spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
    (zones,) = (e["values"] for e in term["matchExpressions"] if e["key"] == ZONE_LABEL)
    (zone,) = zones
    return str(zone)
