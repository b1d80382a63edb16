"""Pods, whatever makes them: StatefulSets, Deployments, Jobs and CronJobs read alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.k8s.render import Resource, identity


@dataclass(frozen=True, slots=True)
class Workload:
    """What makes pods, and the pods that it makes.

    Attributes:
        owner: The StatefulSet, Deployment, Job or CronJob.
        template: The pod template in it.
    """

    owner: Resource
    template: dict[str, Any]

    @property
    def name(self) -> str:
        """As messages name it: `StatefulSet/ads`."""
        return identity(self.owner)

    @property
    def component(self) -> str:
        """Its role: `ads`, `apply`, `snapshots`."""
        return self.labels.get("app.kubernetes.io/component", "")

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the pods."""
        labels: dict[str, str] = self.template.get("metadata", {}).get("labels", {})
        return labels

    @property
    def spec(self) -> dict[str, Any]:
        """Specification of the pods."""
        spec: dict[str, Any] = self.template["spec"]
        return spec

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All containers, those that run first at the front."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def volume_names(self) -> set[str]:
        """Names of the volumes that its containers can mount, claims of its own included."""
        claims = self.owner["spec"].get("volumeClaimTemplates", ())
        return {one["metadata"]["name"] for one in claims} | {one["name"] for one in self.spec.get("volumes", ())}

    def port(self, port: str | int) -> int | None:
        """Number of a port that a container opens, by its name or number."""
        for container in self.spec["containers"]:
            for one in container.get("ports", ()):
                if port in {one.get("name"), one["containerPort"]}:
                    return int(one["containerPort"])
        return None


_TEMPLATES = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
_WITHOUT_PODS = frozenset(
    {
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "ExternalSecret",
        "FQDNNetworkPolicy",
        "HighAvailabilityApplication",
        "Namespace",
        "NetworkPolicy",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "PodMonitoring",
        "PriorityClass",
        "Role",
        "RoleBinding",
        "Rules",
        "Secret",
        "SecretStore",
        "Service",
        "ServiceAccount",
        "StorageClass",
        "VolumeSnapshotClass",
    }
)


def workloads(resources: Iterable[Resource]) -> list[Workload]:
    """Everything that makes pods.

    Raises:
        AssertionError: there is a kind of which nobody has said here whether it makes pods.
    """
    found = []
    for resource in resources:
        kind = resource["kind"]
        if kind in _TEMPLATES:
            template = resource
            for key in _TEMPLATES[kind]:
                template = template[key]
            found.append(Workload(resource, template))
        else:
            assert kind in _WITHOUT_PODS, f"{identity(resource)}: say in workloads.py whether this kind makes pods"
    return found
