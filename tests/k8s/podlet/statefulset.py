"""The controller of one StatefulSet: which pods there are, and in which order they are replaced."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import threading
from collections.abc import Callable, Iterator

from tests.k8s.podlet.events import EventLog
from tests.k8s.podlet.kubelet import Pod
from tests.k8s.podlet.manifest import Resource

_LOOK_EVERY_S = 0.05
_ZONES = ("a", "b", "c")


def revision_of(manifest: Resource) -> str:
    """Short digest of a pod template."""
    template = json.dumps(manifest["spec"]["template"], sort_keys=True)
    return hashlib.sha256(template.encode()).hexdigest()[:10]


class StatefulSet(threading.Thread):
    """Keeps the pods of a StatefulSet as its manifest wants them.

    Args:
        manifest: What to begin with.
        make: Makes a pod of a manifest, a revision and a zone; it is started here.
        on_gone: Called with the ordinal of a pod that was scaled away.
    """

    def __init__(
        self,
        manifest: Resource,
        make: Callable[[Resource, str, str], Pod],
        events: EventLog,
        on_gone: Callable[[Resource, int], None],
    ) -> None:
        super().__init__(name=f"statefulset {manifest['metadata']['name']}", daemon=True)
        self.manifest = manifest
        self._make = make
        self._events = events
        self._on_gone = on_gone
        self._templates = {revision_of(manifest): manifest}
        self._current = self._update = revision_of(manifest)
        self._pods: dict[int, Pod] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False

    @property
    def pods(self) -> tuple[Pod, ...]:
        """By ordinal; those that are about to end are among them."""
        return tuple(pod for _, pod in sorted(self._pods.copy().items()))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Meanwhile no pod is made or deleted by it."""
        with self._lock:
            yield

    @property
    def replicas(self) -> int:
        """How many there should be."""
        return int(self.manifest["spec"].get("replicas", 1))

    def apply(self, manifest: Resource) -> None:
        """Want something else from now on, and take the first steps towards it at once."""
        with self._lock:
            self.manifest = manifest
            self._update = revision_of(manifest)
            self._templates[self._update] = manifest
            self._reconcile()

    def is_ready(self) -> bool:
        """Whether there are exactly the pods that there should be, all of them ready."""
        pods = self.pods
        return len(pods) == self.replicas and all(pod.ready for pod in pods)

    def is_rolled_out(self) -> bool:
        """Whether it is ready, and every pod from the partition on has the newest template and has been ready long."""
        min_ready_s = self.manifest["spec"].get("minReadySeconds", 0)
        return self.is_ready() and all(
            pod.revision == self._update and pod.available(min_ready_s) for pod in self.pods[self._partition :]
        )

    def look(self) -> None:
        """Look at the pods soon."""
        self._wake.set()

    def stop(self) -> None:
        """Make no pods any more."""
        self._stopped = True
        self.look()
        self.join()

    def run(self) -> None:
        """Bring about what is wanted until `stop`."""
        while not self._stopped:
            with self._lock:
                self._reconcile()
            self._wake.wait(_LOOK_EVERY_S)
            self._wake.clear()

    @property
    def _partition(self) -> int:
        return int((self._strategy.get("rollingUpdate") or {}).get("partition", 0))

    @property
    def _strategy(self) -> Resource:
        strategy: Resource = self.manifest["spec"].get("updateStrategy", {})
        return strategy

    def _reconcile(self) -> None:
        in_order = self.manifest["spec"].get("podManagementPolicy", "OrderedReady") == "OrderedReady"
        for ordinal, pod in [*self._pods.items()]:
            if pod.gone.is_set():
                del self._pods[ordinal]
                if ordinal >= self.replicas:
                    self._on_gone(self.manifest, ordinal)
        for ordinal in range(self.replicas):
            if ordinal not in self._pods:
                self._pods[ordinal] = self._new(ordinal)
                self._pods[ordinal].start()
            if in_order and not self._pods[ordinal].ready:
                return
        surplus = [pod for ordinal, pod in sorted(self._pods.items(), reverse=True) if ordinal >= self.replicas]
        for pod in surplus[:1] if in_order else surplus:
            if not pod.deleting:
                pod.delete()
        if not surplus and self._strategy.get("type", "RollingUpdate") == "RollingUpdate":
            self._roll()

    def _roll(self) -> None:
        """Replace the highest pod of an old template, when all above it are well."""
        min_ready_s = self.manifest["spec"].get("minReadySeconds", 0)
        for ordinal in reversed(range(self._partition, self.replicas)):
            pod = self._pods[ordinal]
            if pod.revision != self._update and not pod.deleting:
                pod.delete()
            if pod.revision != self._update or not pod.available(min_ready_s):
                return
        if self._partition == 0 and self._current != self._update:
            self._current = self._update
            self._events.note(self.manifest["metadata"]["name"], "rolled_out", self._update)

    def _new(self, ordinal: int) -> Pod:
        is_old = self._strategy.get("type", "RollingUpdate") == "RollingUpdate" and ordinal < self._partition
        revision = self._current if is_old else self._update
        manifest = self._templates[revision]
        template = copy.deepcopy(manifest["spec"]["template"])
        name = f"{manifest['metadata']['name']}-{ordinal}"
        metadata = template.setdefault("metadata", {}) | {
            "name": name,
            "namespace": manifest["metadata"].get("namespace", "default"),
        }
        metadata["labels"] = metadata.get("labels", {}) | {
            "apps.kubernetes.io/pod-index": str(ordinal),
            "statefulset.kubernetes.io/pod-name": name,
            "controller-revision-hash": f"{manifest['metadata']['name']}-{revision}",
        }
        spec = template["spec"] | {"subdomain": manifest["spec"].get("serviceName", "")}
        claims = manifest["spec"].get("volumeClaimTemplates", [])
        pod = {"metadata": metadata, "spec": spec, "claimTemplates": claims}
        return self._make(pod, revision, _ZONES[ordinal % len(_ZONES)])
