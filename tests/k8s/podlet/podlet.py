"""The harness: applies manifests, and does to the pods what happens to pods."""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self
from weakref import WeakKeyDictionary

from tests.k8s.podlet import machine
from tests.k8s.podlet.events import EventLog
from tests.k8s.podlet.job import Job, Outcome
from tests.k8s.podlet.kubelet import Node, Pod, log_path, refuse_unknown, workspace
from tests.k8s.podlet.machine import PodletError
from tests.k8s.podlet.manifest import Resource, Store, merge, selects
from tests.k8s.podlet.network import Hosts, Network
from tests.k8s.podlet.outside import Outside
from tests.k8s.podlet.policy import enforce
from tests.k8s.podlet.probes import get
from tests.k8s.podlet.sandbox import Image, local_image, send, tree
from tests.k8s.podlet.statefulset import StatefulSet
from tests.k8s.podlet.volumes import Volumes

WAIT_S = 300.0

_RUNNING = threading.Lock()

_DOMAIN = "svc.cluster.local"
_LOG_TAIL = 20
_EVENTS_TAIL = 40


class Podlet:
    """A small cluster of one machine. Use it as a context manager; one at a time in a process.

    Args:
        resources: Applied when it starts.
        directory: Everything goes below it. Pods that are not root have to be able to enter it.
        image: What containers run; ours by default.
        time_scale: Divides back-off (of kubelet and jobs), and nothing else.
        enforce_policies: Turn NetworkPolicies into rules.
        enforce_sizes: Give claims file systems of the size that they ask for.

    Attributes:
        events: All that happened.
    """

    def __init__(
        self,
        resources: Iterable[Resource] = (),
        *,
        directory: Path,
        image: Image | None = None,
        time_scale: float = 1.0,
        enforce_policies: bool = True,
        enforce_sizes: bool = False,
    ) -> None:
        self.events = EventLog()
        self._resources = tuple(resources)
        self._directory = directory
        self._outside: list[Outside] = []
        self._image = image or local_image()
        self._time_scale = time_scale
        self._enforce_policies = enforce_policies
        self._enforce_sizes = enforce_sizes
        self._store = Store()
        self._sets: dict[str, StatefulSet] = {}
        self._jobs: dict[str, Job] = {}
        self._rules: WeakKeyDictionary[Pod, str] = WeakKeyDictionary()
        self._changing = threading.Lock()

    def __enter__(self) -> Self:
        reason = machine.unusable()
        if reason is not None:
            raise PodletError(f"this machine cannot run pods: {reason}")
        if not _RUNNING.acquire(blocking=False):
            raise PodletError("this process runs a harness already, and its names are taken; leave that one first")
        try:
            machine.sweep()
            self._begin(workspace(self._directory))
            self.apply(self._resources)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    # What there is ----------------------------------------------------------------------------------------------------

    @property
    def pods(self) -> tuple[Pod, ...]:
        """Of all sets and running jobs."""
        jobs = (pod for job in self._jobs.copy().values() for pod in job.pods if not pod.gone.is_set())
        return (*(pod for one in self._sets.copy().values() for pod in one.pods), *jobs)

    def pod(self, name: str) -> Pod:
        """The pod of this name that there is now.

        Raises:
            PodletError: There is none.
        """
        for pod in self.pods:
            if pod.name == name and not pod.gone.is_set():
                return pod
        raise PodletError(f"there is no pod {name!r}; there are: {', '.join(pod.name for pod in self.pods) or 'none'}")

    def log(self, pod: str, container: str | None = None) -> str:
        """All that a container of the pods of a name has written, also of those that are gone; that of the flow."""
        path = log_path(self._node.workspace, pod, container or pod.rpartition("-")[0])
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def pids(self, pod: str) -> list[int]:
        """Processes of a pod as this machine numbers them, its process 1 first, parents before children."""
        pid = self.pod(pod).pid
        return [] if pid is None else tree(pid)

    def get(self, pod: str, path: str, port: int = 9090, timeout_s: float = 5.0) -> tuple[int, bytes]:
        """GET from within a pod's network: status and body.

        Raises:
            OSError: It does not answer in time.
        """
        return get(self.pod(pod).link, port, path, timeout_s)

    def claim(self, pod: str, template: str | None = None) -> Path:
        """Folder of the volume that a pod of a set owns; with its template named, of one that is not there, too."""
        return self._volumes.folder(self._claim(pod, template))

    # Wishes -----------------------------------------------------------------------------------------------------------

    def outside(self, name: str, published: Mapping[int, int] | None = None, namespace: str | None = None) -> Outside:
        """Make a name that pods can call: no pod, but services of this machine at an address of their own.

        They listen at that address, or on 127.0.0.1 and are published.

        Args:
            name: As pods call it.
            published: Ports of this machine's loopback interface by the port under which they are called.
            namespace: What NetworkPolicies take it to be in. `None`: only address blocks cover it.
        """
        found = Outside(name, self._network.add_address(), namespace)
        for port, local_port in (published or {}).items():
            self._network.publish(found.address, port, local_port)
        self._outside.append(found)
        self._changed()
        return found

    def apply(self, resources: Iterable[Resource]) -> None:
        """Add or replace resources: sets follow, jobs start (again, if they have ended), files of pods change.

        Raises:
            PodletError: A pod wants something that the harness does not know; nothing is applied.
        """
        new = [copy.deepcopy(resource) for resource in resources]
        for resource in new:
            if resource["kind"] in {"StatefulSet", "Job"}:
                refuse_unknown(resource["metadata"]["name"], resource["spec"]["template"]["spec"])
        for resource in new:
            self._store.put(resource)
        if any(resource["kind"] in {"ConfigMap", "Secret"} for resource in new):
            for pod in self.pods:
                pod.refresh()
        self._changed()
        for resource in new:
            name = resource["metadata"]["name"]
            if resource["kind"] == "StatefulSet":
                if name not in self._sets:
                    self._sets[name] = StatefulSet(resource, self._make, self.events, self._scaled_away)
                    self._sets[name].start()
                self._sets[name].apply(resource)
            elif resource["kind"] == "Job":
                self._start_job(resource)

    def scale(self, name: str, replicas: int) -> None:
        """Want another number of pods; `wait_ready` tells when they are there."""
        self.rollout(name, {"spec": {"replicas": replicas}})

    def rollout(self, name: str, patch: Resource) -> None:
        """Change a set as `kubectl patch` does; `wait_rolled_out` tells when its pods follow."""
        changed = merge(self._set(name).manifest, patch)
        self._store.put(changed)
        self._set(name).apply(changed)

    # Mishaps ----------------------------------------------------------------------------------------------------------

    def kill(self, pod: str, number: signal.Signals = signal.SIGKILL, process: int = 0) -> None:
        """Send a signal to a process of a pod: 0 is its process 1, 1 the first below it (see `pids`)."""
        pids = self.pids(pod)
        if process >= len(pids):
            raise PodletError(f"pod {pod} has {len(pids)} processes at the moment, so none to be {number.name}ed")
        self.events.note(pod, "signalled", f"{number.name} process {process}")
        send([pids[process]], number)

    def delete(self, pod: str, grace_s: float | None = None) -> None:
        """Delete a pod, as an eviction does, with its own grace period; its set makes another."""
        self.pod(pod).delete(grace_s)

    def freeze(self, pod: str, seconds: float) -> None:
        """Stop all processes of a pod for so long; returns when they go on."""
        pids = self._freeze(pod)
        time.sleep(seconds)
        self._thaw(pod, pids)

    def cut(self, pod: str, seconds: float) -> None:
        """Take a pod off the network for so long; its node's probes still reach it. Returns when it is back."""
        found = self.pod(pod)
        link = found.link
        self.events.note(pod, "cut")
        self._network.plug(link, is_in=False)
        time.sleep(seconds)
        if found.current_link is not None:
            self._network.plug(link, is_in=True)
            self.events.note(pod, "joined")

    def drain(self, predicate: Callable[[Pod], bool], within_s: float = WAIT_S) -> None:
        """Evict the pods for which it holds, as many at a time as PodDisruptionBudgets allow; returns when all went.

        Raises:
            PodletError: The budgets do not let them go in time.
        """
        waiting = [pod for pod in self.pods if predicate(pod)]
        while waiting:
            for pod in waiting:
                if not self.events.wait(lambda pod=pod: self._may_go(pod), within_s):  # type: ignore[misc]
                    raise self._in_vain(f"{pod.name} may be evicted", within_s)
                pod.delete()
            waiting = [pod for pod in waiting if not pod.gone.wait(within_s)]

    def lose_volume(self, pod: str, template: str | None = None) -> None:
        """Destroy the volume of a pod with all that is on it; its set makes the pod again, with an empty one."""
        claim = self._claim(pod, template)
        self._without(pod, lambda: self._volumes.lose(claim))
        self.events.note(pod, "lost", claim)

    def snapshot_volume(self, pod: str, template: str | None = None) -> Path:
        """Copy a volume as it is at one moment, for which the pod is frozen; returns the copy."""
        claim = self._claim(pod, template)
        pids = self._freeze(pod)
        try:
            return self._volumes.snapshot(claim)
        finally:
            self._thaw(pod, pids)

    def restore_volume(self, pod: str, snapshot: Path, template: str | None = None) -> None:
        """Make the volume of a pod what it was; the pod is killed before, and made again by its set."""
        claim = self._claim(pod, template)
        self._without(pod, lambda: self._volumes.restore(claim, snapshot))
        self.events.note(pod, "restored", claim)

    # Waiting ----------------------------------------------------------------------------------------------------------

    def wait(self, holds: Callable[[], bool], what: str, within_s: float = WAIT_S) -> None:
        """Until it holds, looked at when something happens.

        Raises:
            PodletError: It takes too long; tells events and logs.
        """
        deadline_s = time.monotonic() + within_s
        # Not all that is waited for is an event, so look from time to time as well.
        while not self.events.wait(holds, min(0.1, max(0.0, deadline_s - time.monotonic()))):
            if time.monotonic() >= deadline_s:
                raise self._in_vain(what, within_s)

    def wait_ready(self, *names: str, within_s: float = WAIT_S) -> None:
        """Until the sets (all, if none is named) have exactly the pods that they should have, all ready."""
        sets = [self._set(name) for name in names] or [*self._sets.values()]
        self.wait(lambda: all(one.is_ready() for one in sets), f"{', '.join(names) or 'all sets'} ready", within_s)

    def wait_rolled_out(self, name: str, within_s: float = WAIT_S) -> None:
        """Until a set is ready and every pod from its partition on is of the newest template."""
        self.wait(self._set(name).is_rolled_out, f"{name} rolled out", within_s)

    def wait_gone(self, pod: Pod, within_s: float = WAIT_S) -> None:
        """Until nothing is left of a pod."""
        self.wait(pod.gone.is_set, f"{pod.name} gone", within_s)

    def wait_job(self, name: str, within_s: float = WAIT_S) -> Outcome:
        """Until a job has ended; how."""
        job = self._jobs[name]
        self.wait(lambda: job.outcome is not None, f"job {name} ended", within_s)
        assert job.outcome is not None
        return job.outcome

    def job_pods(self, name: str) -> tuple[Pod, ...]:
        """All pods of a job, those that have ended, too."""
        return self._jobs[name].pods

    # Inside -----------------------------------------------------------------------------------------------------------

    def _begin(self, folder: Path) -> None:
        self._network = Network()
        self._volumes = Volumes(folder, self._store, enforce_sizes=self._enforce_sizes)
        self._node = Node(
            workspace=folder,
            image=self._image,
            network=self._network,
            hosts=Hosts(folder / "hosts"),
            volumes=self._volumes,
            store=self._store,
            events=self.events,
            changed=self._changed,
            time_scale=self._time_scale,
        )

    def _set(self, name: str) -> StatefulSet:
        if name not in self._sets:
            raise PodletError(f"there is no StatefulSet {name!r}; there are: {', '.join(self._sets) or 'none'}")
        return self._sets[name]

    def _make(self, manifest: Resource, revision: str, zone: str) -> Pod:
        return Pod(manifest, self._node, revision=revision, zone=zone)

    def _start_job(self, manifest: Resource) -> None:
        name = manifest["metadata"]["name"]
        old = self._jobs.get(name)
        if old is None or old.outcome is not None:
            self._jobs[name] = Job(manifest, self._make, self.events, self._time_scale)
            self._jobs[name].start()

    def _scaled_away(self, manifest: Resource, ordinal: int) -> None:
        retention = manifest["spec"].get("persistentVolumeClaimRetentionPolicy", {})
        if retention.get("whenScaled", "Retain") == "Delete":
            for template in manifest["spec"].get("volumeClaimTemplates", []):
                self._volumes.lose(f"{template['metadata']['name']}-{manifest['metadata']['name']}-{ordinal}")

    def _claim(self, pod: str, template: str | None) -> str:
        if template is None:
            templates = [one["metadata"]["name"] for one in self.pod(pod).claim_templates]
            if len(templates) != 1:
                raise PodletError(f"pod {pod} has claims {templates}; say which")
            template = templates[0]
        return f"{template}-{pod}"

    def _without(self, pod: str, what: Callable[[], None]) -> None:
        """Do something while a pod is not there."""
        found = self.pod(pod)
        owner = next(one for one in self._sets.values() if found in one.pods)
        with owner.paused():
            found.delete(0)
            self.wait_gone(found)
            what()

    def _freeze(self, pod: str) -> list[int]:
        pids: list[int] = []
        # What starts a process between the look and its own stop is stopped by the next look.
        while pids != (found := self.pids(pod)):
            pids = found
            send(pids, signal.SIGSTOP)
        self.events.note(pod, "frozen")
        return pids

    def _thaw(self, pod: str, pids: Sequence[int]) -> None:
        # Children first, so that no parent finds one that stands still.
        send([*reversed(pids)], signal.SIGCONT)
        self.events.note(pod, "thawed")

    def _may_go(self, pod: Pod) -> bool:
        """Whether no budget is exceeded without this pod."""
        for budget in self._store.of("PodDisruptionBudget"):
            spec = budget["spec"]
            if not selects(spec.get("selector"), pod.labels):
                continue
            ours = [other for other in self.pods if selects(spec["selector"], other.labels)]
            healthy = sum(other.ready for other in ours)
            if not pod.ready and spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
                continue
            wanted = sum(one.replicas for one in self._sets.values() if any(pod in one.pods for pod in ours))
            least = spec["minAvailable"] if "minAvailable" in spec else wanted - spec["maxUnavailable"]
            if healthy - 1 < least:
                return False
        return True

    def _changed(self) -> None:
        """Names and rules follow the pods."""
        with self._changing:
            pods = self.pods
            self._node.hosts.write(self._dns(pods))
            if self._enforce_policies:
                enforce(pods, self._outside, self._store.of("NetworkPolicy"), self._rules)
        for one in self._sets.copy().values():
            one.look()
        self.events.touch()

    def _dns(self, pods: Sequence[Pod]) -> Mapping[str, list[str]]:
        names: dict[str, list[str]] = {one.name: [one.address] for one in self._outside}
        for service in self._store.of("Service"):
            spec, metadata = service["spec"], service["metadata"]
            for pod in pods:
                is_listed = pod.ready or spec.get("publishNotReadyAddresses", False)
                if pod.address is None or not is_listed or not selects({"matchLabels": spec["selector"]}, pod.labels):
                    continue
                own = [f"{pod.name}."] if pod.spec.get("subdomain") == metadata["name"] else []
                namespace = metadata.get("namespace", "default")
                for prefix in ("", *own):
                    for suffix in ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.{_DOMAIN}"):
                        names.setdefault(f"{prefix}{metadata['name']}{suffix}", []).append(pod.address)
        for pod in pods:
            if pod.address is not None:
                names.setdefault(pod.name, []).append(pod.address)
        return names

    def _in_vain(self, what: str, within_s: float) -> PodletError:
        events = "\n".join(map(str, self.events.of()[-_EVENTS_TAIL:]))
        logs = "\n".join(f"--- {pod.name}\n" + "\n".join(pod.log().splitlines()[-_LOG_TAIL:]) for pod in self.pods)
        return PodletError(f"waited {within_s:g} s in vain: {what}\n{events}\n{logs}")

    def _close(self) -> None:
        try:
            for one in self._sets.values():
                one.stop()
            for job in self._jobs.values():
                job.stop()
            pods = self.pods
            for pod in pods:
                pod.delete(0)
            for pod in pods:
                pod.join()
            machine.sweep()
        finally:
            _RUNNING.release()
