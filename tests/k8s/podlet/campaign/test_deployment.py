from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.podlet.campaign.deployment import AGGREGATORS, BIGQUERY, KAFKA, Deployment, Service
from tests.k8s.podlet.manifest import Resource
from tests.k8s.render import K8S, render

pytestmark = pytest.mark.podlet

SERVICES = (
    Service(KAFKA, "10.1.2.3", (9092,)),
    Service(BIGQUERY, "10.1.2.4", (9050, 9060)),
    Service(AGGREGATORS, "10.1.2.5", (8080,)),
)


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path, SERVICES, "secret")


def test_only_addresses_configuration_and_number_of_cells_differ_from_the_overlay(deployment: Deployment) -> None:
    """What the campaign proves, it proves of the manifests that are rolled out."""
    ours, theirs = deployment.overlay("[scaling]\ncells = 3\n", 3), render(K8S / "overlays" / "staging")

    changed = {
        path for name, one in _named(theirs).items() for path in _differences(name, one, _named(ours).get(name, {}))
    }
    assert _named(ours).keys() - _named(theirs).keys() == {"Secret/datastreamx-secrets"}
    assert changed == {
        "ConfigMap/datastreamx/data/datastreamx.toml",
        *(f"NetworkPolicy/{name}/spec/egress" for name in (KAFKA, BIGQUERY, AGGREGATORS)),
        *(f"StatefulSet/{name}/spec/replicas" for name in ("ads", "notices", "warehouse")),
    }


def test_job_names_the_new_number_and_has_the_configuration_with_the_old_one(deployment: Deployment) -> None:
    resources = deployment.rescale("[scaling]\ncells = 4\n", 4, 6)

    (job,) = (one for one in resources if one["kind"] == "Job")
    (config,) = (one for one in resources if one["kind"] == "ConfigMap")
    spec = job["spec"]["template"]["spec"]
    assert spec["containers"][0]["args"] == ["rescale", "--handed-over", "--cells", "6", "--json"]
    assert config["data"]["datastreamx.toml"] == "[scaling]\ncells = 4\n"
    assert config["metadata"]["name"] in [volume.get("configMap", {}).get("name") for volume in spec["volumes"]]
    assert not [one for one in resources if one["kind"] == "StatefulSet"]


def _named(resources: Iterable[Resource]) -> dict[str, Resource]:
    """By kind and name, without the hashes that follow from the content."""
    found = {}
    for one in resources:
        name = one["metadata"]["name"]
        is_hashed = one["kind"] == "ConfigMap" and name.startswith("datastreamx-")
        found[f"{one['kind']}/{'datastreamx' if is_hashed else name}"] = one
    return found


def _differences(path: str, old: Any, new: Any) -> list[str]:
    """Where two resources differ; a list is one thing."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [found for key in keys for found in _differences(f"{path}/{key}", old.get(key), new.get(key))]
    return [] if _unhashed(old) == _unhashed(new) else [path]


def _unhashed(value: Any) -> Any:
    """Names of ConfigMaps end with a hash of what is in them."""
    if isinstance(value, dict):
        return {key: _unhashed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_unhashed(one) for one in value]
    is_hashed = isinstance(value, str) and value.startswith("datastreamx-") and len(value) == len("datastreamx-") + 10
    return "datastreamx" if is_hashed else value
