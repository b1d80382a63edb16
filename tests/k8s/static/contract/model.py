"""What rules read, and where they write what they find."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from tests.k8s.render import Resource, of_kind
from tests.k8s.static.workloads import Workload, workloads

NAMESPACE = "datastreamx"
FLOWS = ("ads", "warehouse", "notices")
CONFIG_VARIABLE = "DATASTREAMX_CONFIG"


class Deployment:
    """All that is deployed in one environment.

    Args:
        environment: `dev`, `staging` or `prod`.
        resources: Of the overlay and its Jobs.
    """

    def __init__(self, environment: str, resources: tuple[Resource, ...]) -> None:
        self.environment = environment
        self.resources = resources
        self.workloads = workloads(resources)

    @property
    def flows(self) -> list[Workload]:
        """The StatefulSets."""
        return [one for one in self.workloads if one.owner["kind"] == "StatefulSet"]

    def of(self, *kinds: str) -> tuple[Resource, ...]:
        """Resources of these kinds."""
        return of_kind(self.resources, *kinds)

    def named(self, kind: str, name: str) -> Resource | None:
        """The one resource of that kind and name."""
        return next((one for one in self.of(kind) if one["metadata"]["name"] == name), None)

    def selected(self, selector: Mapping[str, Any]) -> list[Workload]:
        """Workloads whose pods a label selector matches."""
        return [one for one in self.workloads if selects(selector, one.labels)]

    def config(self, workload: Workload) -> dict[str, Any] | None:
        """The configuration that the containers of a workload read, as TOML; None if they read none."""
        text = self.config_text(workload)
        return None if text is None else tomllib.loads(text)

    def config_text(self, workload: Workload) -> str | None:
        """The configuration file that a workload's containers find, as it stands in its ConfigMap."""
        paths = {value for one in workload.containers if (value := variables(one).get(CONFIG_VARIABLE)) is not None}
        if not paths:
            return None
        (path,) = paths
        folder, key = PurePosixPath(str(path)).parent, PurePosixPath(str(path)).name
        volume = mounted(workload.containers[-1], str(folder))
        declared = {one["name"]: one for one in workload.spec.get("volumes", ())}
        name = declared.get(volume or "", {}).get("configMap", {}).get("name", "")
        config_map = self.named("ConfigMap", name)
        return None if config_map is None else config_map["data"].get(key)


@dataclass
class Report:
    """What the checks of one rule came to."""

    checks: int = 0
    problems: list[str] = field(default_factory=list)

    def expect(self, holds: object, problem: str) -> None:
        """Count a check, and keep `problem` unless it holds."""
        self.checks += 1
        if not holds:
            self.problems.append(problem)


Rule = Callable[[Deployment, Report], None]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything."""
    exact = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in exact.items()) and all(
        _meets(expression, labels) for expression in selector.get("matchExpressions", ())
    )


def _meets(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values", ())
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case other:
            raise AssertionError(f"no such operator: {other}")


def variables(container: Mapping[str, Any]) -> dict[str, str | None]:
    """Environment of a container; what is taken from elsewhere has no value yet."""
    return {one["name"]: one.get("value") for one in container.get("env", ())}


def mounted(container: Mapping[str, Any], path: str) -> str | None:
    """Name of the volume in which a path lies: that of the mount nearest to it."""
    mount = mount_of(container, path)
    return None if mount is None else str(mount["name"])


def mount_of(container: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    """The mount in which a path lies: the nearest."""
    place = PurePosixPath(path)
    mounts: list[Mapping[str, Any]] = list(container.get("volumeMounts", ()))
    above = [one for one in mounts if place.is_relative_to(one["mountPath"])]
    return max(above, key=lambda one: len(PurePosixPath(one["mountPath"]).parts), default=None)


def is_ours(container: Mapping[str, Any]) -> bool:
    """Whether a container runs this program, and not somebody else's."""
    repository = str(container["image"]).partition("@")[0]
    return repository.rpartition("/")[2].partition(":")[0] == "datastreamx"
