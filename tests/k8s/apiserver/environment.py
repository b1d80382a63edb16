"""An environment (dev, staging, prod) on a control plane: what was applied, what the server said, and its state now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.k8s.apiserver.client import STRATEGIC, Answer, Client
from tests.k8s.apiserver.control_plane import ControlPlane
from tests.k8s.apiserver.custom_resources import definitions
from tests.k8s.apiserver.nodes import nodes, zone_of
from tests.k8s.render import JOBS, K8S, Resource, identity, of_kind, render

NAMESPACE: Final = "datastreamx"
FLOWS: Final = ("ads", "warehouse", "notices")
COMPONENT: Final = "app.kubernetes.io/component"


@dataclass(frozen=True, slots=True)
class Environment:
    """The resources of one overlay, applied to a control plane."""

    name: str
    plane: ControlPlane
    client: Client
    resources: tuple[Resource, ...]
    # By the resource's name, what the server said to it.
    answers: dict[str, Answer]

    def jobs(self) -> tuple[Resource, ...]:
        """Render the jobs that are run by hand against this environment."""
        folders = (folder for folder in JOBS if folder.parent.name == self.name)
        return tuple(job for folder in folders for job in of_kind(render(folder), "Job"))

    def path(self, kind: str, name: str = "", part: str = "") -> str:
        """Find where the environment's resources of a kind are, or one of them."""
        return self.client.path(_VERSIONS[kind], kind, NAMESPACE, name, part)

    def get(self, kind: str, name: str) -> Resource:
        """Read one resource of the environment."""
        return self.client.get(self.path(kind, name))

    def pods(self, flow: str) -> tuple[Resource, ...]:
        """Read the pods of a flow."""
        return self.client.list(self.path("Pod"), selector=f"{COMPONENT}={flow}")

    def replicas(self, flow: str) -> int:
        """Say how many pods the manifests want of a flow."""
        (wanted,) = (r for r in of_kind(self.resources, "StatefulSet") if r["metadata"]["name"] == flow)
        count: int = wanted["spec"]["replicas"]
        return count

    def until(self, kind: str, name: str, happened: Callable[[Resource], bool]) -> None:
        """Watch one resource until it is there and `happened`.

        Raises:
            AssertionError: It did not happen in time.
        """

        def one(found: tuple[Resource, ...]) -> bool:
            return bool(found) and happened(found[0])

        one.__qualname__ = happened.__qualname__
        self.client.until(self.path(kind), one, fields=f"metadata.name={name}")

    def until_ready(self, *flows: str) -> None:
        """Wait until all pods of these flows (of all, if none is named) are ready and of the newest revision.

        Raises:
            AssertionError: They were not in time.
        """

        def ready(stateful: Resource) -> bool:
            status = stateful.get("status", {})
            counts = {status.get(key, 0) for key in ("replicas", "readyReplicas", "updatedReplicas")}
            seen: bool = status.get("observedGeneration") == stateful["metadata"]["generation"]
            return seen and counts == {stateful["spec"]["replicas"]}

        for flow in flows or FLOWS:
            self.until("StatefulSet", flow, ready)

    def say_ready(self, pod: str, *, ready: bool) -> None:
        """Say of a pod what its kubelet would say after a probe."""
        status = "True" if ready else "False"
        conditions = [{"type": kind, "status": status} for kind in ("ContainersReady", "Ready")]
        self.client.patch(self.path("Pod", pod, "status"), {"status": {"conditions": conditions}}, content=STRATEGIC)

    def token(self, account: str) -> str:
        """Have a token made for a service account, as the kubelet does for a pod."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        made = self.client.request("POST", self.path("ServiceAccount", account, "token"), request).body
        return str(made["status"]["token"])

    @contextmanager
    def cordoned(self, zone: str = "") -> Iterator[None]:
        """Keep new pods from the nodes of a zone, or from all nodes, as `kubectl cordon` does."""
        names = [node["metadata"]["name"] for node in nodes() if zone in ("", zone_of(node["metadata"]["name"]))]
        paths = [self.client.path("v1", "Node", name=name) for name in names]
        for path in paths:
            self.client.patch(path, {"spec": {"unschedulable": True}})
        try:
            yield
        finally:
            for path in paths:
                self.client.patch(path, {"spec": {"unschedulable": None}})


@contextmanager
def environment(name: str, folder: Path, resources: tuple[Resource, ...] = ()) -> Iterator[Environment]:
    """Start a control plane with six nodes and apply an overlay to it, as `kubectl apply -k` would.

    Args:
        name: The overlay.
        folder: Where the control plane keeps everything; empty.
        resources: What to apply in place of the overlay's own.

    Raises:
        RefusedError: The API server refused a resource.
    """
    resources = resources or render(K8S / "overlays" / name)
    with ControlPlane(folder) as plane:
        client = plane.client()
        try:
            _furnish(client)
            answers = {identity(resource): client.apply(resource) for resource in resources}
            yield Environment(name, plane, client, resources, answers)
        finally:
            client.close()


_VERSIONS: Final = {
    "ControllerRevision": "apps/v1",
    "CronJob": "batch/v1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "Job": "batch/v1",
    "PersistentVolume": "v1",
    "PersistentVolumeClaim": "v1",
    "Pod": "v1",
    "PodDisruptionBudget": "policy/v1",
    "Secret": "v1",
    "ServiceAccount": "v1",
    "StatefulSet": "apps/v1",
    "VolumeSnapshot": "snapshot.storage.k8s.io/v1",
}

# What every cluster has: the disks of dev, which names no class of its own.
_DEFAULT_CLASS: Final[Resource] = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "standard-rwo", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": "pd.csi.storage.gke.io",
    "volumeBindingMode": "WaitForFirstConsumer",
}


def _furnish(client: Client) -> None:
    for node in nodes():
        client.create(node)
    client.create(_DEFAULT_CLASS)
    wanted = [client.apply(definition).body["metadata"]["name"] for definition in definitions()]

    def served(found: tuple[Resource, ...]) -> bool:
        return {name for name in wanted if _established(name, found)} == set(wanted)

    client.until(client.path("apiextensions.k8s.io/v1", "CustomResourceDefinition"), served)

    def usable(found: tuple[Resource, ...]) -> bool:
        return all("taints" not in node["spec"] for node in found)

    client.until(client.path("v1", "Node"), usable)


def _established(name: str, found: tuple[Resource, ...]) -> bool:
    (one,) = (definition for definition in found if definition["metadata"]["name"] == name)
    conditions = one.get("status", {}).get("conditions") or ()
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
