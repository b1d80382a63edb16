"""The profile `restricted` of the Pod Security Standards, as rules over a pod's specification.

The API server of the control plane tests admits the real pods by the real plug-in; this one needs no server, so a
mistake shows in a second, with its container. Rules and wording follow the standard's own page in Kubernetes'
documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Spec = dict[str, Any]

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
_SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_SECCOMP = {"RuntimeDefault", "Localhost"}


def violations(spec: Spec) -> list[str]:
    """Say everything in a pod's specification that the profile forbids."""
    found = [*_pod(spec)]
    pod = spec.get("securityContext", {})
    for container in containers(spec):
        own = container.get("securityContext", {})
        found += [f"{container['name']}: {problem}" for rule in _CONTAINER for problem in rule(container, own, pod)]
    return found


def containers(spec: Spec) -> Iterator[Spec]:
    """All containers of a pod, those that only debug it included."""
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(kind, ())


def _pod(spec: Spec) -> Iterator[str]:
    context = spec.get("securityContext", {})
    yield from (f"{key} is true" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key))
    for volume in spec.get("volumes", ()):
        yield from (f"volume {volume['name']} is of type {kind}" for kind in volume.keys() - {"name"} - _VOLUMES)
    names = (one["name"] for one in context.get("sysctls", ()))
    yield from (f"sysctl {name} is not safe" for name in names if name not in _SYSCTLS)


_ContainerRule = Callable[[Spec, Spec, Spec], Iterator[str]]


def _privileges(_: Spec, own: Spec, __: Spec) -> Iterator[str]:
    if own.get("privileged"):
        yield "it is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("procMount", "Default") != "Default":
        yield "procMount is not Default"


def _user(_: Spec, own: Spec, pod: Spec) -> Iterator[str]:
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield "runAsUser is 0"


def _capabilities(_: Spec, own: Spec, __: Spec) -> Iterator[str]:
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()):
        yield "capabilities do not drop ALL"
    yield from (f"capability {name} is added" for name in capabilities.get("add", ()) if name != "NET_BIND_SERVICE")


def _confinement(_: Spec, own: Spec, pod: Spec) -> Iterator[str]:
    profile = own.get("seccompProfile") or pod.get("seccompProfile") or {}
    seccomp = profile.get("type")
    if seccomp not in _SECCOMP:
        yield f"seccompProfile is {seccomp}"
    for context in (own, pod):
        if context.get("appArmorProfile", {}).get("type") == "Unconfined":
            yield "appArmorProfile is Unconfined"
        selinux = context.get("seLinuxOptions", {})
        if selinux.get("type", "") not in _SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
            yield "seLinuxOptions choose a type, a user or a role"
        if context.get("windowsOptions", {}).get("hostProcess"):
            yield "it is a process of the host"


def _host_ports(container: Spec, _: Spec, __: Spec) -> Iterator[str]:
    yield from (f"host port {one['hostPort']} is used" for one in container.get("ports", ()) if one.get("hostPort"))
    probes = (container.get(kind, {}) for kind in ("startupProbe", "livenessProbe", "readinessProbe"))
    handlers = [*probes, *container.get("lifecycle", {}).values()]
    for handler in handlers:
        if any(handler.get(kind, {}).get("host") for kind in ("httpGet", "tcpSocket")):
            yield "a probe or a hook asks another host"


_CONTAINER: tuple[_ContainerRule, ...] = (_privileges, _user, _capabilities, _confinement, _host_ports)
RULES = len(_CONTAINER) + 1
