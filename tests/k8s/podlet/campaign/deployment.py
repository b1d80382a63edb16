"""The staging overlay with addresses, secrets and viewers' times of this machine; all else is as it is rolled out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.podlet.manifest import Resource
from tests.k8s.render import K8S, render

NAMESPACE = "datastreamx"
SETS = ("ads", "warehouse", "notices")
JOB = "rescale"

KAFKA, BIGQUERY, AGGREGATORS = "egress-kafka", "egress-google-apis", "egress-aggregators"


@dataclass(frozen=True)
class Service:
    """What pods may reach, and the policy of the manifests that lets them."""

    policy: str
    address: str
    ports: tuple[int, ...]


class Deployment:
    """Kustomizations over those of the repository, made below a folder, one for each configuration.

    Args:
        directory: Where they go.
        services: An overlay names the addresses of its environment; these are ours.
        box_key_secret: One of the secrets.
    """

    def __init__(self, directory: Path, services: tuple[Service, ...], box_key_secret: str) -> None:
        self._secret = _secret(box_key_secret)
        self._directory = directory
        self._services = services
        self._made = 0

    def overlay(self, config: str, cells: int) -> tuple[Resource, ...]:
        """The manifests with this configuration and so many cells of each flow, and the Secret beside them."""
        return (*render(self._overlay(config, cells)), self._secret)

    def rescale(self, config: str, cells: int, wanted: int) -> tuple[Resource, ...]:
        """The Job that shares the state of `cells` cells out to `wanted`; the configuration is the old one."""
        overlay = self._overlay(config, cells)
        path = "/spec/template/spec/containers/0/args/3"
        folder = self._folder("rescale")
        kustomization = {
            "resources": [f"../{overlay.name}", _relative(K8S / "jobs" / JOB, folder)],
            "components": [_relative(K8S / "jobs" / "only-job", folder)],
            "patches": [_patch("Job", JOB, [{"op": "replace", "path": path, "value": str(wanted)}])],
        }
        _write(folder, kustomization)
        return render(folder)

    def _overlay(self, config: str, cells: int) -> Path:
        folder = self._folder("overlay")
        (folder / "datastreamx.toml").write_text(config, encoding="utf-8")
        kustomization = {
            "resources": [_relative(K8S / "overlays" / "staging", folder)],
            "replicas": [{"name": name, "count": cells} for name in SETS],
            "generatorOptions": {"immutable": True},
            "configMapGenerator": [
                {"name": "datastreamx", "namespace": NAMESPACE, "behavior": "replace", "files": ["datastreamx.toml"]}
            ],
            "patches": [
                _patch("NetworkPolicy", policy, [{"op": "replace", "path": "/spec/egress", "value": rules}])
                for policy, rules in self._egress().items()
            ],
        }
        _write(folder, kustomization)
        return folder

    def _egress(self) -> Mapping[str, list[Resource]]:
        found: dict[str, list[Resource]] = {}
        for one in self._services:
            ports = [{"port": port, "protocol": "TCP"} for port in one.ports]
            rule: Resource = {"to": [{"ipBlock": {"cidr": f"{one.address}/32"}}], "ports": ports}
            found.setdefault(one.policy, []).append(rule)
        return found

    def _folder(self, what: str) -> Path:
        self._made += 1
        folder = self._directory / f"{what}-{self._made}"
        folder.mkdir(parents=True)
        return folder


def _secret(box_key_secret: str) -> Resource:
    """What the External Secrets Operator would make of Secret Manager."""
    data = {"box-key-secret": box_key_secret, "signing-key": "0" * 63 + "1", "adriatic-token": "not-a-secret"}
    metadata = {"name": "datastreamx-secrets", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


def _patch(kind: str, name: str, operations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"target": {"kind": kind, "name": name}, "patch": json.dumps(operations)}


def _relative(path: Path, folder: Path) -> str:
    """Kustomize takes no absolute paths."""
    return os.path.relpath(path, folder.resolve())


def _write(folder: Path, kustomization: dict[str, Any]) -> None:
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    text = yaml.safe_dump(head | kustomization, sort_keys=False)
    (folder / "kustomization.yaml").write_text(text, encoding="utf-8")
