from __future__ import annotations

import base64
import stat

import pytest

from tests.k8s.podlet.conftest import Ask, Cluster
from tests.k8s.podlet.manifest import Resource
from tests.k8s.podlet.manifests import stateful_set

pytestmark = pytest.mark.podlet


def test_config_and_nested_secrets_are_files_that_cannot_be_changed(cluster: Cluster, ask: Ask) -> None:
    with cluster(_config("one"), _secret("hidden"), _with_files()) as podlet:
        podlet.wait_ready()

        assert ask(podlet, "web-0", "/file?/etc/app/app.toml") == "one"
        assert ask(podlet, "web-0", "/file?/etc/app/secrets/key") == "hidden"
        assert ask(podlet, "web-0", "/who")["writable"] == []
        (key,) = (podlet._node.workspace / "pods").glob("*/secrets/..[0-9]*/key")
        assert stat.S_IMODE(key.stat().st_mode) == 0o440
        assert (key.stat().st_uid, key.stat().st_gid) == (0, 10001)


def test_rotated_secret_reaches_running_pods(cluster: Cluster, ask: Ask) -> None:
    with cluster(_config("one"), _secret("old"), _with_files()) as podlet:
        podlet.wait_ready()

        podlet.apply([_secret("new")])

        assert ask(podlet, "web-0", "/file?/etc/app/secrets/key") == "new"
        assert podlet.pod("web-0").restarts == 0


def test_missing_config_keeps_the_pod_from_starting_and_says_so(cluster: Cluster) -> None:
    with cluster(_secret("x"), _with_files()) as podlet:
        podlet.wait(lambda: bool(podlet.events.of("web-0", "failed")), "refused")

        assert "no ConfigMap 'app'" in podlet.events.of("web-0", "failed")[0].detail


def test_claim_that_several_pods_mount_is_one_folder(cluster: Cluster, ask: Ask) -> None:
    manifest = stateful_set(2)
    pod = manifest["spec"]["template"]["spec"]
    pod["volumes"].append({"name": "shared", "persistentVolumeClaim": {"claimName": "handover"}})
    pod["containers"][0]["volumeMounts"].append({"name": "shared", "mountPath": "/handover"})
    claim = {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "handover"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    with cluster(claim, manifest) as podlet:
        podlet.wait_ready()

        ask(podlet, "web-0", "/touch?/handover/note")

        assert ask(podlet, "web-1", "/file?/handover/note") == ""


def _with_files() -> Resource:
    manifest = stateful_set(env={"TRY": "/etc/app:/etc/app/secrets"})
    pod = manifest["spec"]["template"]["spec"]
    pod["volumes"] += [
        {"name": "config", "configMap": {"name": "app"}},
        {"name": "secrets", "secret": {"secretName": "app", "defaultMode": 0o440}},
    ]
    pod["containers"][0]["volumeMounts"] += [
        {"name": "secrets", "mountPath": "/etc/app/secrets", "readOnly": True},
        {"name": "config", "mountPath": "/etc/app", "readOnly": True},
    ]
    return manifest


def _config(text: str) -> Resource:
    return {"kind": "ConfigMap", "metadata": {"name": "app"}, "data": {"app.toml": text}}


def _secret(text: str) -> Resource:
    return {"kind": "Secret", "metadata": {"name": "app"}, "data": {"key": base64.b64encode(text.encode()).decode()}}
