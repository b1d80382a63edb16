"""JSON Schemas of everything that is rendered, in the layout that kubeconform reads, from three honest origins.

Kubernetes' own come from the package kubernetes-validate, custom resources' from the definitions in the Go modules of
their makers, and those of GKE itself, which are in no package, from google.yaml beside this.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.render import parse
from tests.k8s.tools import tool
from tests.k8s.tools.modules import go_module

# GKE's release notes of autumn 2026: its channels offer 1.34 to 1.36, which is the default of Rapid; 1.37 is next.
VERSIONS = ("1.34.0", "1.35.0", "1.36.0", "1.37.0")

# Where kubeconform looks, below the folder that `write` has filled.
LOCATION = "{{.NormalizedKubernetesVersion}}/{{.Group}}_{{.ResourceAPIVersion}}_{{.ResourceKind}}.json"

_DEFINITIONS = (
    ("github.com/external-secrets/external-secrets", "config/crds/bases/external-secrets.io_externalsecrets.yaml"),
    ("github.com/external-secrets/external-secrets", "config/crds/bases/external-secrets.io_secretstores.yaml"),
    (
        "github.com/kubernetes-csi/external-snapshotter/client/v8",
        "config/crd/snapshot.storage.k8s.io_volumesnapshots.yaml",
    ),
    (
        "github.com/kubernetes-csi/external-snapshotter/client/v8",
        "config/crd/snapshot.storage.k8s.io_volumesnapshotclasses.yaml",
    ),
)

Kind = tuple[str, str]
"""apiVersion and kind."""

_Schema = dict[str, Any]


def write(folder: Path, kinds: Iterable[Kind]) -> None:
    """Write a schema for each of Kubernetes' versions and each of the kinds that has one, unless it is there."""
    for kind in kinds:
        group, _, number = kind[0].rpartition("/")
        for version in VERSIONS:
            # kubeconform takes the version for the group where there is none.
            path = folder / f"v{version}" / f"{group or number}_{number}_{kind[1].lower()}.json"
            schema = None if path.exists() else (_custom_schemas().get(kind) or _built_in(version, kind))
            if schema is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(schema), encoding="utf-8")


def is_custom(kind: Kind) -> bool:
    """Tell resources of somebody's own definition from Kubernetes' own."""
    group = kind[0].rpartition("/")[0]
    return ("." in group and not group.endswith(".k8s.io")) or group == "snapshot.storage.k8s.io"


@functools.cache
def _custom_schemas() -> dict[Kind, _Schema]:
    """The schemas of custom resources, strict, by their kinds."""
    return dict(_defined())


def _defined() -> Iterator[tuple[Kind, _Schema]]:
    for module, file in _DEFINITIONS:
        (definition,) = parse((go_module(module) / file).read_text(encoding="utf-8"))
        spec = definition["spec"]
        for version in spec["versions"]:
            if version["served"]:
                kind = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                yield kind, _strict(version["schema"]["openAPIV3Schema"])
    for own in yaml.safe_load(Path(__file__).with_name("google.yaml").read_text(encoding="utf-8")):
        yield (f"{own['group']}/{own['version']}", own["kind"]), _strict(own["schema"])


def _strict(schema: Any) -> Any:
    """Say in JSON Schema what Kubernetes means, and refuse unknown keys, which a server would drop without a word."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    strict = {key: _strict(value) for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    # Inside of `properties` a key may be called anything, so a schema is what has a type.
    if (
        strict.get("type") == "object"
        and "properties" in strict
        and "additionalProperties" not in strict
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        strict["additionalProperties"] = False
    return strict


def _built_in(version: str, kind: Kind) -> _Schema | None:
    """One of Kubernetes' schemas with all that it refers to, so that it can be read by itself."""
    group, _, number = kind[0].rpartition("/")
    name = "-".join(filter(None, (kind[1].lower(), group.partition(".")[0], number)))
    path = _package() / f"v{version}-local-strict" / f"{name}.json"
    if not path.exists():
        return None
    schema = json.loads(path.read_text(encoding="utf-8"))
    del schema["$id"]
    known, needed = _definitions(version), {}
    waiting = list(_references(schema))
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed[name] = known[name]
            waiting += _references(known[name])
    text = json.dumps(schema | {"$defs": needed})
    return json.loads(text.replace(_REFERENCE, "#/$defs/"))  # type: ignore[no-any-return]


_REFERENCE = "/api/_definitions.json#/$defs/"


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.rpartition("/$defs/")[2]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


@functools.cache
def _definitions(version: str) -> _Schema:
    path = _package() / f"v{version}-local-strict" / "_definitions.json"
    definitions: _Schema = json.loads(path.read_text(encoding="utf-8"))["$defs"]
    return definitions


@functools.cache
def _package() -> Path:
    environment = tool("kubernetes-validate").parents[1]
    (found,) = environment.glob("lib/python3.*/site-packages/kubernetes_validate/kubernetes-json-schema")
    return found
