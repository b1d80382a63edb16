from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from datastreamx.cli.volumes.objects import OWN_LABEL
from tests.k8s.apiserver.client import Client
from tests.k8s.apiserver.environment import FLOWS, NAMESPACE, Environment
from tests.k8s.render import Resource, of_kind

_CLAIM = "recovery-ads-0"


@pytest.fixture
def cron(prod: Environment) -> Resource:
    """The CronJob as it was rendered."""
    (job,) = of_kind(prod.resources, "CronJob")
    return job


@pytest.fixture
def _no_snapshots(prod: Environment, client: Client) -> Iterator[None]:
    yield
    for snapshot in client.list(prod.path("VolumeSnapshot")):
        client.delete(prod.path("VolumeSnapshot", snapshot["metadata"]["name"]))


def test_the_schedule_starts_a_job_whose_pod_has_the_right_account(
    prod: Environment, client: Client, cron: Resource
) -> None:
    """The controller makes up for a run that was missed, so nobody has to wait for the next."""
    name = cron["metadata"]["name"]
    missed = (datetime.now(UTC) - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    client.patch(prod.path("CronJob", name), {"spec": {"startingDeadlineSeconds": 7200}})
    client.patch(prod.path("CronJob", name, "status"), {"status": {"lastScheduleTime": missed}})
    try:
        job: Resource = client.until(prod.path("Job"), lambda jobs: _started_by(name, jobs))
        prod.until("Job", job["metadata"]["name"], lambda one: one["status"].get("succeeded") == 1)
        (pod,) = client.list(prod.path("Pod"), selector=f"job-name={job['metadata']['name']}")
    finally:
        client.patch(prod.path("CronJob", name), {"spec": {"startingDeadlineSeconds": 1800}})

    assert pod["spec"]["serviceAccountName"] == "snapshots"
    # The admission has put the account's token into the pod, where the command looks for it.
    (container,) = pod["spec"]["containers"]
    assert "/var/run/secrets/kubernetes.io/serviceaccount" in {
        mount["mountPath"] for mount in container["volumeMounts"]
    }


@pytest.mark.usefixtures("_no_snapshots")
def test_the_command_of_the_pod_keeps_a_snapshot_of_every_volume_and_deletes_the_oldest(
    prod: Environment, client: Client, cron: Resource, tmp_path: Path
) -> None:
    prod.until_ready()
    (container,) = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    keep = int(container["args"][container["args"].index("--keep") + 1])
    old = [f"{_CLAIM}-20260101t{hour:02}0000z" for hour in range(keep + 2)]
    for name in old:
        _make_snapshot(prod, name, dict([OWN_LABEL]))
    _make_snapshot(prod, "by-hand", {})

    done = _run(prod, "snapshots", container["args"], tmp_path)

    assert done.returncode == 0, done.stderr
    found = {s["metadata"]["name"]: s["spec"] for s in client.list(prod.path("VolumeSnapshot"))}
    new = {name: spec for name, spec in found.items() if name not in {*old, "by-hand"}}
    claims = {f"recovery-{flow}-{ordinal}" for flow in FLOWS for ordinal in range(prod.replicas(flow))}
    assert {spec["source"]["persistentVolumeClaimName"] for spec in new.values()} == claims
    assert len(new) == len(claims)
    assert {spec["volumeSnapshotClassName"] for spec in new.values()} == {"datastreamx-recovery"}
    assert set(old) & set(found) == set(old[2:])
    assert "by-hand" in found
    assert sorted(json.loads(done.stdout)["deleted"]) == old[:2]


def test_the_command_fails_with_another_account_and_says_where_its_rights_are(
    prod: Environment, client: Client, tmp_path: Path
) -> None:
    done = _run(prod, "ads", ["snapshot-volumes"], tmp_path)

    assert done.returncode == 1
    assert "k8s/components/snapshots/rights.yaml" in done.stderr
    assert not client.list(prod.path("VolumeSnapshot"))


def _started_by(cron: str, jobs: tuple[Resource, ...]) -> Resource | None:
    owned = (j for j in jobs if any(o["name"] == cron for o in j["metadata"].get("ownerReferences", ())))
    return next(owned, None)


def _make_snapshot(prod: Environment, name: str, labels: dict[str, str]) -> None:
    """Make a snapshot that is usable, which the driver's controller would say of it."""
    snapshot = {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/name": "datastreamx", **labels},
        },
        "spec": {"source": {"persistentVolumeClaimName": _CLAIM}},
    }
    prod.client.create(snapshot)
    prod.client.patch(prod.path("VolumeSnapshot", name, "status"), {"status": {"readyToUse": True}})


def _run(prod: Environment, account: str, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as in its pod: the kubelet's two variables, and its folder with token and authority."""
    (folder / "token").write_text(prod.token(account))
    (folder / "ca.crt").write_bytes(prod.plane.authority.read_bytes())
    (folder / "namespace").write_text(NAMESPACE)
    server = urlsplit(prod.plane.url)
    variables = {"KUBERNETES_SERVICE_HOST": str(server.hostname), "KUBERNETES_SERVICE_PORT": str(server.port)}
    return subprocess.run(
        [sys.executable, "-m", "datastreamx.cli", *arguments, "--credentials", str(folder)],
        env={**os.environ, **variables},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
