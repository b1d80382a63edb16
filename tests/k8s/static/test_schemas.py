"""Two validators read the rendered manifests against the schemas of every version of Kubernetes that GKE offers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.render import JOBS, K8S, OVERLAYS, Resource, identity, of_kind, parse, render
from tests.k8s.static.schemas import LOCATION, VERSIONS, Kind, is_custom
from tests.k8s.tally import Tally
from tests.k8s.tools import tool

pytestmark = pytest.mark.k8s

RENDERED = (*OVERLAYS, *JOBS)


def _kind(resource: Resource) -> Kind:
    return resource["apiVersion"], resource["kind"]


def _file(folder: Path, resources: tuple[Resource, ...]) -> Path:
    path = folder / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(resources), encoding="utf-8")
    return path


Schemas = Callable[[Iterable[Kind]], Path]


def kubeconform(manifests: Path, schemas: Schemas, version: str) -> list[dict[str, Any]]:
    """What kubeconform says of each resource in a file."""
    folder = schemas(_kind(resource) for resource in parse(manifests.read_text(encoding="utf-8")))
    command: list[str | Path] = [
        tool("kubeconform"),
        "-strict",
        "-verbose",
        "-output",
        "json",
        "-kubernetes-version",
        version,
    ]
    command += ["-schema-location", f"{folder}/{LOCATION}", manifests]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout, done.stderr
    resources: list[dict[str, Any]] = json.loads(done.stdout)["resources"]
    return resources


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", RENDERED, ids=lambda folder: str(folder.relative_to(K8S)))
def test_kubeconform_accepts_every_resource(
    folder: Path, version: str, schemas: Schemas, tmp_path: Path, tally: Tally
) -> None:
    resources = render(folder)
    results = kubeconform(_file(tmp_path, resources), schemas, version)
    assert not [f"{one['kind']}/{one['name']}: {one['msg']}" for one in results if one["status"] != "statusValid"]
    assert len(results) == len(resources)
    tally("kubeconform", len(results))


def _kubernetes_validate(manifests: Path, version: str) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [tool("kubernetes-validate"), "--strict", "-k", version, manifests]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", RENDERED, ids=lambda folder: str(folder.relative_to(K8S)))
def test_kubernetes_validate_accepts_every_resource_of_kubernetes(
    folder: Path, version: str, tmp_path: Path, tally: Tally
) -> None:
    resources = tuple(resource for resource in render(folder) if not is_custom(_kind(resource)))
    done = _kubernetes_validate(_file(tmp_path, resources), version)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed for resource ") == len(resources)
    tally("kubernetes-validate", len(resources))


def _misspelt_port(resource: Resource) -> None:
    resource["spec"]["ports"][0]["targetPrt"] = resource["spec"]["ports"][0].pop("targetPort")


def _replicas_as_text(resource: Resource) -> None:
    resource["spec"]["replicas"] = "four"


def _probe_without_number(resource: Resource) -> None:
    resource["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["periodSeconds"] = "10s"


def _misspelt_endpoint(resource: Resource) -> None:
    resource["spec"]["endpoints"][0]["prot"] = resource["spec"]["endpoints"][0].pop("port")


def _renamed_job_label(resource: Resource) -> None:
    resource["spec"]["targetLabels"]["fromPod"][0]["to"] = "namespace"


def _rule_without_expression(resource: Resource) -> None:
    del resource["spec"]["groups"][0]["rules"][0]["expr"]


def _misspelt_store(resource: Resource) -> None:
    resource["spec"]["provider"]["gcpsm"]["project"] = resource["spec"]["provider"]["gcpsm"].pop("projectID")


def _secret_without_origin(resource: Resource) -> None:
    del resource["spec"]["data"][0]["remoteRef"]["key"]


def _misspelt_policy(resource: Resource) -> None:
    resource["deletionPolicy"] = "Keep"


@pytest.mark.parametrize(
    ("kind", "mistake"),
    [
        ("Service", _misspelt_port),
        ("StatefulSet", _replicas_as_text),
        ("StatefulSet", _probe_without_number),
        ("PodMonitoring", _misspelt_endpoint),
        ("PodMonitoring", _renamed_job_label),
        ("Rules", _rule_without_expression),
        ("SecretStore", _misspelt_store),
        ("ExternalSecret", _secret_without_origin),
        ("VolumeSnapshotClass", _misspelt_policy),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)
def test_mistake_is_refused(kind: str, mistake: Callable[[Resource], None], schemas: Schemas, tmp_path: Path) -> None:
    """By every validator that knows the kind, in every version; and it is the only one."""
    resource = of_kind(render(K8S / "overlays" / "prod"), kind)[0]
    mistake(resource)
    manifests = _file(tmp_path, (resource,))
    for version in VERSIONS:
        (result,) = kubeconform(manifests, schemas, version)
        assert result["status"] == "statusInvalid", (version, identity(resource), result)
        if not is_custom(_kind(resource)):
            assert _kubernetes_validate(manifests, version).returncode != 0, version
