from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.k8s.render import ENVIRONMENTS, K8S, of_kind, render
from tests.k8s.static.environments import deployed
from tests.k8s.static.pod_security import RULES, violations
from tests.k8s.static.workloads import workloads
from tests.k8s.tally import Tally

pytestmark = pytest.mark.k8s

Spec = dict[str, Any]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_all_pods_are_restricted(environment: str, tally: Tally) -> None:
    found = workloads(deployed(environment))
    assert not {one.name: problems for one in found if (problems := violations(one.spec))}
    tally("pod security", RULES * sum(len(one.containers) for one in found))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_namespace_enforces_the_profile(environment: str) -> None:
    (namespace,) = of_kind(render(K8S / "overlays" / environment), "Namespace")
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert labels["pod-security.kubernetes.io/enforce-version"].startswith("v1.")


def _spec() -> Spec:
    (ads,) = (one for one in workloads(deployed("prod")) if one.name == "StatefulSet/ads")
    return ads.spec


def _in_context(key: str, value: object) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        spec["containers"][0]["securityContext"][key] = value

    return change


def _in_pod(key: str, value: object) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        spec[key] = value

    return change


def _in_pod_context(key: str, value: object) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        spec["securityContext"][key] = value
        spec["containers"][0]["securityContext"].pop(key, None)

    return change


def _add_volume(spec: Spec) -> None:
    spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}})


def _add_host_port(spec: Spec) -> None:
    spec["containers"][0]["ports"][0]["hostPort"] = 9090


def _probe_elsewhere(spec: Spec) -> None:
    spec["containers"][0]["livenessProbe"]["httpGet"]["host"] = "example.com"


def _relaxed_init(spec: Spec) -> None:
    del spec["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_in_context("privileged", value=True), "privileged"),
        (_in_context("allowPrivilegeEscalation", value=True), "allowPrivilegeEscalation"),
        (_relaxed_init, "prepare: allowPrivilegeEscalation"),
        (_in_context("procMount", "Unmasked"), "procMount"),
        (_in_context("runAsNonRoot", value=False), "runAsNonRoot"),
        (_in_pod_context("runAsNonRoot", value=False), "runAsNonRoot"),
        (_in_pod_context("runAsUser", 0), "runAsUser"),
        (_in_context("capabilities", {"drop": ["NET_RAW"]}), "drop ALL"),
        (_in_context("capabilities", {"drop": ["ALL"], "add": ["SYS_PTRACE"]}), "SYS_PTRACE"),
        (_in_pod_context("seccompProfile", {}), "seccompProfile"),
        (_in_context("seccompProfile", {"type": "Unconfined"}), "seccompProfile"),
        (_in_context("appArmorProfile", {"type": "Unconfined"}), "appArmorProfile"),
        (_in_context("seLinuxOptions", {"user": "system_u"}), "seLinuxOptions"),
        (_in_context("windowsOptions", {"hostProcess": True}), "process of the host"),
        (_in_pod("hostNetwork", value=True), "hostNetwork"),
        (_in_pod("hostPID", value=True), "hostPID"),
        (_in_pod("hostIPC", value=True), "hostIPC"),
        (_in_pod_context("sysctls", [{"name": "kernel.msgmax", "value": "1"}]), "sysctl"),
        (_add_volume, "hostPath"),
        (_add_host_port, "host port"),
        (_probe_elsewhere, "another host"),
    ],
)
def test_what_the_profile_forbids_is_found(change: Callable[[Spec], None], problem: str) -> None:
    spec = _spec()
    change(spec)
    assert any(problem in one for one in violations(spec)), violations(spec)
