"""The life of one pod: volumes, network, init containers, the container, its probes and restarts, and its end."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.k8s.podlet import machine
from tests.k8s.podlet.cgroups import MemoryGroup, memory_group
from tests.k8s.podlet.events import EventLog
from tests.k8s.podlet.machine import PodletError
from tests.k8s.podlet.manifest import Identity, Resource, Store, command, environment, memory_limit
from tests.k8s.podlet.network import Hosts, Link, Network
from tests.k8s.podlet.probes import Kind, Probes
from tests.k8s.podlet.sandbox import Image, Process, Sandbox, send
from tests.k8s.podlet.volumes import Volume, Volumes, mounts

Phase = Literal["Pending", "Running", "Succeeded", "Failed"]

LOOK_EVERY_S = 0.02
BACK_OFF_S = 10.0
BACK_OFF_MAX_S = 300.0
BACK_OFF_FORGOTTEN_S = 600.0
GRACE_S = 30.0

_ROOTS = "roots"


@dataclass(frozen=True)
class Node:
    """What all pods share.

    Attributes:
        changed: Called when a pod's address or readiness has changed.
        time_scale: Divides back-off, and nothing else.
    """

    workspace: Path
    image: Image
    network: Network
    hosts: Hosts
    volumes: Volumes
    store: Store
    events: EventLog
    changed: Callable[[], None]
    time_scale: float


class BackOff:
    """Delays before restarts as kubelets have them: none before the first, then 10 s, doubled up to 300 s."""

    def __init__(self, time_scale: float) -> None:
        self._scale = time_scale
        self._delay_s = 0.0

    def after(self, ran_s: float) -> float:
        """Seconds to wait after a container has ended that ran for `ran_s`; long runs are forgiven."""
        if ran_s > BACK_OFF_FORGOTTEN_S / self._scale:
            self._delay_s = 0.0
        delay_s = self._delay_s
        self._delay_s = min(max(2 * delay_s, BACK_OFF_S), BACK_OFF_MAX_S)
        return delay_s / self._scale


class Pod(threading.Thread):
    """A pod; `start` begins its life, which ends by `delete` or when its work is done.

    Attributes:
        revision: Of the template that it was made from.
        zone: Where its node is.
        phase: As Kubernetes calls it.
        ready: Whether its container is.
        pid: Process 1 of its container, as this machine sees it; `None` between runs.
        restarts: How often a container was started again.
        exit_codes: Of its containers' runs, in order.
        gone: Set when nothing is left of it.
    """

    def __init__(self, manifest: Resource, node: Node, *, revision: str = "", zone: str = "") -> None:
        metadata = manifest["metadata"]
        super().__init__(name=metadata["name"], daemon=True)
        self.spec: Resource = manifest["spec"]
        self.labels: Mapping[str, str] = metadata.get("labels", {})
        self.namespace: str = metadata.get("namespace", "default")
        self.claim_templates: list[Resource] = manifest.get("claimTemplates", [])
        self.revision, self.zone = revision, zone
        self.phase: Phase = "Pending"
        self.pid: int | None = None
        self.restarts = 0
        self.exit_codes: list[int] = []
        self.gone = threading.Event()
        self._annotations: Mapping[str, str] = metadata.get("annotations", {})
        self._uid = str(uuid.uuid4())
        self._node = node
        self._link: Link | None = None
        self._identity: Identity | None = None
        self._volumes: dict[str, Volume] = {}
        self._ready_since_s: float | None = None
        self._wake = threading.Event()
        self._deleting = threading.Event()
        self._delete_by_s = float("inf")
        self._unhealthy = False

    @property
    def link(self) -> Link:
        """Its network.

        Raises:
            PodletError: It has none, yet or any more.
        """
        if self._link is None:
            raise PodletError(f"pod {self.name} has no network at the moment")
        return self._link

    @property
    def current_link(self) -> Link | None:
        """Its network, if it has one."""
        return self._link

    @property
    def address(self) -> str | None:
        """Its address, if it has one."""
        return None if self._link is None else self._link.address

    @property
    def ready(self) -> bool:
        """Whether its container is ready."""
        return self._ready_since_s is not None

    @property
    def deleting(self) -> bool:
        """Whether it was asked to end."""
        return self._deleting.is_set()

    def available(self, min_ready_s: float) -> bool:
        """Whether it has been ready for so long."""
        since_s = self._ready_since_s
        return since_s is not None and time.monotonic() >= since_s + min_ready_s

    def delete(self, grace_s: float | None = None) -> None:
        """Ask it to end: TERM, and KILL when the grace period is over. Returns at once; `gone` tells.

        Args:
            grace_s: `None` takes what the manifest says; 0 is a kill.
        """
        grace_s = self.spec.get("terminationGracePeriodSeconds", GRACE_S) if grace_s is None else grace_s
        self._delete_by_s = min(self._delete_by_s, time.monotonic() + grace_s)
        if not self._deleting.is_set():
            self._note("terminating", f"grace {grace_s:g} s")
        self._deleting.set()
        self._set_ready(is_ready=False)
        self._wake.set()

    def refresh(self) -> None:
        """Let files of ConfigMaps and Secrets be what they are now."""
        if self._identity is not None and not self.gone.is_set():
            self._node.volumes.refresh(self.spec, self._identity)

    def log(self, container: str | None = None) -> str:
        """All that a container has written, over all its runs and those of earlier pods of this name."""
        path = log_path(self._node.workspace, self.name, container or self.spec["containers"][0]["name"])
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def run(self) -> None:
        """Live; nothing is left when this returns."""
        self._note("created", self.revision)
        try:
            self._set_up()
            done = all(self._run_to_end(container, is_init=True) for container in self.spec.get("initContainers", []))
            if done:
                self.phase = "Running"
                done = self._run_to_end(self.spec["containers"][0], is_init=False)
            self.phase = "Succeeded" if done else "Failed"
        except Exception as error:  # noqa: BLE001  whoever waits for the pod has to see it
            self.phase = "Failed"
            self._note("failed", str(error) or repr(error))
            if self.spec.get("restartPolicy", "Always") == "Always":
                # Else its controller would make the next at once, to no better end.
                self._deleting.wait()
        finally:
            try:
                self._tear_down()
            finally:
                self._note("deleted")
                self.gone.set()
                self._node.changed()

    def _set_up(self) -> None:
        self._link = self._node.network.join()
        self._identity = Identity(
            self.name,
            self.namespace,
            self._uid,
            f"node-{self.zone}",
            self._link.address,
            self.labels,
            self._annotations,
            self.spec.get("serviceAccountName", "default"),
        )
        self._volumes = self._node.volumes.prepare(self.spec, self._identity, self.claim_templates)
        self._node.changed()

    def _tear_down(self) -> None:
        link, self._link = self._link, None
        self._node.volumes.release(self.spec, self._uid)
        if link is not None:
            self._node.network.leave(link)

    def _run_to_end(self, container: Resource, *, is_init: bool) -> bool:
        """Run until nothing is to be done any more; whether it was successful."""
        policy = self.spec.get("restartPolicy", "Always")
        back_off = BackOff(self._node.time_scale)
        while not self.deleting:
            began_s = time.monotonic()
            code = self._run_once(container, is_init=is_init)
            if code == 0 and (is_init or policy != "Always"):
                return True
            if policy == "Never" or self._deleting.is_set():
                return False
            delay_s = back_off.after(time.monotonic() - began_s)
            if delay_s:
                self._note("back_off", f"{delay_s:g} s")
                self._deleting.wait(delay_s)
            self.restarts += 1
        return False

    def _run_once(self, container: Resource, *, is_init: bool) -> int:
        limit = memory_limit(container)
        label = f"{self.name}-{container['name']}"
        group = None if limit is None else memory_group(f"{label}-{self._uid[:8]}", limit)
        if limit is not None and group is None:
            self._note("unlimited", f"{container['name']}: this machine has no memory controller for us")
        try:
            process = Process(self._sandbox(container, group))
            probes = None
            try:
                self.pid, self._unhealthy = process.pid, False
                self._note("started", container["name"])
                probes = None if is_init else Probes(container, self.link, self._on_probe)
                code = self._watch(process, container)
            finally:
                process.abandon()
                if probes is not None:
                    probes.stop()
                self.pid = None
                self._set_ready(is_ready=False)
            if group is not None and group.oom_kills():
                self._note("oom_killed", container["name"])
            self.exit_codes.append(code)
            self._note("exited", f"{container['name']} {code}")
            return code
        finally:
            if group is not None:
                group.remove()

    def _watch(self, process: Process, container: Resource) -> int:
        """Until it ends, which it is made to if the pod is deleted or a probe says so."""
        kill_at_s = float("inf")
        asked = killed = False
        while (code := process.poll()) is None:
            now_s = time.monotonic()
            if self._unhealthy and kill_at_s == float("inf"):
                probe = container.get("livenessProbe", {})
                grace_s = self.spec.get("terminationGracePeriodSeconds", GRACE_S)
                kill_at_s = now_s + probe.get("terminationGracePeriodSeconds", grace_s)
            kill_at_s = min(kill_at_s, self._delete_by_s)
            if kill_at_s < float("inf") and not asked:
                asked = True
                send([process.pid], signal.SIGTERM)
            if now_s >= kill_at_s and not killed:
                killed = True
                self._note("killed", container["name"])
                send([process.pid], signal.SIGKILL)
            self._wake.wait(LOOK_EVERY_S)
            self._wake.clear()
        return code

    def _sandbox(self, container: Resource, group: MemoryGroup | None) -> Sandbox:
        node, identity = self._node, self._identity
        assert identity is not None
        of_pod, own = self.spec.get("securityContext", {}), container.get("securityContext", {})
        security = {**of_pod, **own}
        user = security.get("runAsUser", node.image.user)
        if security.get("runAsNonRoot") and user == 0:
            raise PodletError(f"pod {self.name}: runAsNonRoot, but it would run as 0")
        values = {"HOSTNAME": self.name, **node.image.env, **environment(container, identity, node.store)}
        extra = [*of_pod.get("supplementalGroups", []), *([of_pod["fsGroup"]] if "fsGroup" in of_pod else [])]
        return Sandbox(
            name=f"{self.name}/{container['name']}",
            hostname=self.name,
            namespace=self.link.namespace,
            root=node.workspace / _ROOTS / f"{self.name}-{container['name']}",
            hosts=node.hosts.path,
            mounts=mounts(container, self._volumes),
            folders=node.image.folders,
            argv=command(container, node.image.entrypoint, values),
            env=values,
            workdir=container.get("workingDir", "/"),
            uid=user,
            gid=security.get("runAsGroup", node.image.user),
            groups=tuple(extra),
            read_only_root=security.get("readOnlyRootFilesystem", False),
            drop_capabilities="ALL" in security.get("capabilities", {}).get("drop", []),
            no_new_privileges=security.get("allowPrivilegeEscalation") is False,
            procs=None if group is None else group.procs,
            log_path=log_path(node.workspace, self.name, container["name"]),
        )

    def _on_probe(self, kind: Kind, holds: bool) -> None:  # noqa: FBT001  the probe's verdict
        if kind == "readiness":
            self._set_ready(is_ready=holds)
        elif not holds and not self.deleting:
            self._note("unhealthy", f"{kind} probe")
            self._unhealthy = True
            self._wake.set()

    def _set_ready(self, *, is_ready: bool) -> None:
        if is_ready and self.deleting:
            return
        if self.ready != is_ready:
            self._ready_since_s = time.monotonic() if is_ready else None
            self._note("ready" if is_ready else "unready")
            self._node.changed()

    def _note(self, what: str, detail: str = "") -> None:
        self._node.events.note(self.name, what, detail)


def refuse_unknown(name: str, spec: Resource) -> None:
    """Look at a pod before it is made.

    Raises:
        PodletError: It wants something that would silently not happen here.
    """
    if len(spec["containers"]) != 1:
        raise PodletError(f"a pod of {name} has {len(spec['containers'])} containers; the harness runs one")
    if any("lifecycle" in one for one in spec["containers"]):
        raise PodletError(f"a pod of {name} has lifecycle hooks, which the harness does not run")
    if any("restartPolicy" in one for one in spec.get("initContainers", [])):
        raise PodletError(f"a pod of {name} has sidecars, which the harness does not run")


def log_path(folder: Path, pod: str, container: str) -> Path:
    """Where a container writes; the next pod of that name goes on there."""
    return folder / "logs" / f"{pod}-{container}.log"


def workspace(parent: Path) -> Path:
    """Where everything of this process is below a folder; pods that are not root may pass through."""
    folder = parent / machine.name()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    return folder
