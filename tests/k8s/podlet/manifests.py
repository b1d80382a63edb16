"""Small manifests to try the harness on, of the service in server.py."""

from __future__ import annotations

from typing import Any

from tests.k8s.podlet.manifest import Resource
from tests.k8s.podlet.sandbox import CHECKOUT

PORT = 8080
TMP = "/tmp"  # noqa: S108  the pod's own
SERVER = str(CHECKOUT / "tests/k8s/podlet/server.py")

RESTRICTED: Resource = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}


def container(**changes: Any) -> Resource:
    """The service with a readiness probe; `env` is a plain dict."""
    env = {"STATE": "/data", **changes.pop("env", {})}
    return {
        "name": "web",
        "image": "web",
        "command": ["python", SERVER],
        "args": [str(PORT)],
        "ports": [{"name": "http", "containerPort": PORT}],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "tmp", "mountPath": TMP}, {"name": "data", "mountPath": "/data"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 0.05},
        **changes,
    }


def stateful_set(
    replicas: int = 1, *, spec: Resource | None = None, pod: Resource | None = None, **of: Any
) -> Resource:
    """Pods `web-0` and so on with a volume each; `spec`, `pod` and the rest change set, pod and container."""
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "web", "namespace": "test"},
        "spec": {
            "replicas": replicas,
            "serviceName": "web",
            "podManagementPolicy": "Parallel",
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 5,
                    "securityContext": {"runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001},
                    "volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}}],
                    "containers": [container(**of)],
                    **(pod or {}),
                },
            },
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": "data"},
                    "spec": {"accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "16Mi"}}},
                }
            ],
            **(spec or {}),
        },
    }


def service(*, publish_not_ready: bool = False) -> Resource:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "test"},
        "spec": {
            "clusterIP": "None",
            "selector": {"app": "web"},
            "publishNotReadyAddresses": publish_not_ready,
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }


def job(*command: str, name: str = "work", **spec: Any) -> Resource:
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsUser": 10001, "runAsGroup": 10001},
        "containers": [{"name": "work", "image": "x", "command": [*command], "securityContext": RESTRICTED}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "test"},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}, **spec},
    }


def policy(name: str, **spec: Any) -> Resource:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "test"},
        "spec": {"podSelector": {}, **spec},
    }
