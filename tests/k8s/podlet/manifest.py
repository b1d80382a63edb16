"""What a pod's manifest says, read the way a kubelet reads it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tests.k8s.podlet.machine import PodletError

Resource: TypeAlias = dict[str, Any]

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(k|M|G|T|Ki|Mi|Gi|Ti|)")
_KEYED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_REFERENCE = re.compile(r"\$(\$|\(([A-Za-z_][\w.-]*)\))")


class Store:
    """The resources that were applied, by kind and name."""

    def __init__(self) -> None:
        self._resources: dict[tuple[str, str], Resource] = {}

    def put(self, resource: Resource) -> None:
        """Add or replace one."""
        self._resources[resource["kind"], resource["metadata"]["name"]] = resource

    def of(self, kind: str) -> list[Resource]:
        """All of a kind."""
        return [resource for (found, _), resource in self._resources.items() if found == kind]

    def get(self, kind: str, name: str) -> Resource:
        """One of them.

        Raises:
            PodletError: It was not applied.
        """
        try:
            return self._resources[kind, name]
        except KeyError:
            known = ", ".join(other for found, other in self._resources if found == kind) or "none"
            raise PodletError(f"there is no {kind} {name!r}; applied are: {known}") from None

    def data(self, kind: str, name: str, *, optional: bool = False) -> dict[str, bytes]:
        """Contents of a ConfigMap or Secret by key.

        Raises:
            PodletError: It was not applied, and is not optional.
        """
        if optional and (kind, name) not in self._resources:
            return {}
        resource = self.get(kind, name)
        plain = resource.get("data", {}) if kind == "ConfigMap" else resource.get("stringData", {})
        coded = resource.get("binaryData" if kind == "ConfigMap" else "data", {})
        return {key: text.encode() for key, text in (plain or {}).items()} | {
            key: base64.b64decode(text) for key, text in (coded or {}).items()
        }


@dataclass(frozen=True)
class Identity:
    """What a pod knows of itself (downward API)."""

    name: str
    namespace: str
    uid: str
    node: str
    address: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    service_account: str

    def field(self, path: str) -> str:
        """Value of a fieldRef.

        Raises:
            PodletError: A path that is not known, or a label that the pod has not.
        """
        keyed = _KEYED.fullmatch(path)
        if keyed is not None:
            values = self.labels if keyed[1] == "labels" else self.annotations
            return values.get(keyed[2], "")
        known = {
            "metadata.name": self.name,
            "metadata.namespace": self.namespace,
            "metadata.uid": self.uid,
            "spec.nodeName": self.node,
            "spec.serviceAccountName": self.service_account,
            "status.podIP": self.address,
        }
        if path not in known:
            raise PodletError(f"fieldRef {path!r} of {self.name} is not one that the harness knows")
        return known[path]


def environment(container: Resource, identity: Identity, store: Store) -> dict[str, str]:
    """The variables that a container's manifest gives it, references to earlier ones resolved.

    Raises:
        PodletError: A ConfigMap, Secret or key is missing, or a source is not known.
    """
    if "envFrom" in container:
        raise PodletError(f"container {container['name']}: the harness does not know envFrom; name the variables")
    values: dict[str, str] = {}
    for entry in container.get("env", []):
        if "valueFrom" not in entry:
            values[entry["name"]] = expand(entry.get("value", ""), values)
            continue
        ((kind, reference),) = entry["valueFrom"].items()
        if kind == "fieldRef":
            values[entry["name"]] = identity.field(reference["fieldPath"])
        elif kind not in _KINDS:
            raise PodletError(f"{entry['name']}: the harness does not know {kind}")
        else:
            data = store.data(_KINDS[kind], reference["name"], optional=reference.get("optional", False))
            if reference["key"] in data:
                values[entry["name"]] = data[reference["key"]].decode()
            elif not reference.get("optional", False):
                raise PodletError(f"{entry['name']}: {reference['name']} has no key {reference['key']!r}")
    return values


def command(container: Resource, entrypoint: Iterable[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Program and arguments: the manifest's command stands for the image's entrypoint."""
    words = [*container.get("command", entrypoint), *container.get("args", [])]
    return tuple(expand(str(word), values) for word in words)


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace `$(NAME)` of names that are known; `$$` is a dollar."""
    return _REFERENCE.sub(lambda found: "$" if found[1] == "$" else values.get(found[2], found[0]), text)


def quantity(text: str | int) -> int:
    """Bytes of `64Mi` and the like.

    Raises:
        PodletError: It is not a quantity.
    """
    found = _QUANTITY.fullmatch(str(text))
    if found is None:
        raise PodletError(f"{text!r} is not a quantity of bytes such as 64Mi")
    return int(float(found[1]) * _UNITS[found[2]])


def memory_limit(container: Resource) -> int | None:
    """Most bytes that a container may use."""
    limit = container.get("resources", {}).get("limits", {}).get("memory")
    return None if limit is None else quantity(limit)


def port_of(container: Resource, port: str | int) -> int:
    """Number of a port that a probe or policy names.

    Raises:
        PodletError: The container has no port of this name.
    """
    if isinstance(port, int):
        return port
    for declared in container.get("ports", []):
        if declared.get("name") == port:
            return int(declared["containerPort"])
    raise PodletError(f"container {container['name']} has no port named {port!r}")


def selects(selector: Resource | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches all, none matches nothing."""
    if selector is None:
        return False
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _meets(rule, labels) for rule in selector.get("matchExpressions", [])
    )


def merge(old: Any, patch: Any) -> Any:
    """Patch as `kubectl patch` does: dicts and lists of named things are merged, `None` removes, all else replaces."""
    if isinstance(old, dict) and isinstance(patch, dict):
        kept = {key: value for key, value in old.items() if patch.get(key, key) is not None}
        return kept | {key: merge(old.get(key), value) for key, value in patch.items() if value is not None}
    if isinstance(old, list) and isinstance(patch, list) and all(_is_named(one) for one in (*old, *patch)):
        named = {one["name"]: one for one in old}
        return [*(named | {one["name"]: merge(named.get(one["name"]), one) for one in patch}).values()]
    return patch


_KINDS = {"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}


def _is_named(one: Any) -> bool:
    return isinstance(one, dict) and "name" in one


def _meets(rule: Resource, labels: Mapping[str, str]) -> bool:
    value = labels.get(rule["key"])
    match rule["operator"]:
        case "In":
            return value in rule["values"]
        case "NotIn":
            return value not in rule["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case other:
            raise PodletError(f"{other!r} is not an operator of label selectors")
