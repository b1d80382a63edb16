from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from tests.k8s.apiserver.client import Client, RefusedError
from tests.k8s.apiserver.environment import FLOWS, NAMESPACE, Environment, environment
from tests.k8s.render import OVERLAYS, Resource, identity, of_kind
from tests.k8s.tally import Tally


@pytest.fixture(scope="module", params=[overlay.name for overlay in OVERLAYS])
def overlay(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """Each environment on a control plane of its own, for their resources have the same names."""
    if request.param == "prod":
        yield request.getfixturevalue("prod")
        return
    with environment(request.param, tmp_path_factory.mktemp(request.param)) as applied:
        yield applied


def test_the_server_admits_every_resource_without_a_warning(overlay: Environment, tally: Tally) -> None:
    said = {name: answer.warnings for name, answer in overlay.answers.items() if answer.warnings}

    assert not said
    assert len(overlay.answers) == len(overlay.resources)
    tally("kube-apiserver", len(overlay.answers))


def test_every_pod_finds_a_node_and_its_volumes_and_becomes_ready(overlay: Environment, tally: Tally) -> None:
    overlay.until_ready()

    for flow in FLOWS:
        assert len(overlay.pods(flow)) == overlay.replicas(flow)
        tally("kube-scheduler", overlay.replicas(flow))


def test_a_second_apply_changes_nothing(overlay: Environment) -> None:
    """What the server defaults or drops does not come back as a difference, so a roll-out touches what was edited."""
    overlay.until_ready()

    for resource in overlay.resources:
        before = overlay.client.get(overlay.client.path_of(resource))
        after = overlay.client.apply(resource).body
        assert before.get("spec") == after.get("spec"), identity(resource)
        assert before["metadata"].get("generation") == after["metadata"].get("generation"), identity(resource)


def test_the_jobs_of_the_environment_run_to_their_end(overlay: Environment, tally: Tally) -> None:
    for job in overlay.jobs():
        answer = overlay.client.apply(job)
        name = job["metadata"]["name"]
        overlay.until("Job", name, lambda job: job["status"].get("succeeded") == 1)
        (pod,) = overlay.client.list(overlay.path("Pod"), selector=f"job-name={name}")

        assert not answer.warnings
        assert pod["spec"]["serviceAccountName"] in {"apply", "rescale"}
        tally("kube-apiserver", 1)


def test_a_field_that_does_not_exist_is_refused(prod: Environment, client: Client) -> None:
    """Else the test above would pass for a manifest with a typo."""
    (typo,) = _resources(prod, "StatefulSet/ads")
    typo["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 5

    with pytest.raises(RefusedError, match="terminationGracePeriodSecond"):
        client.apply(typo, dry_run=True)


@pytest.mark.parametrize("kind", ["ExternalSecret", "SecretStore", "PodMonitoring", "Rules", "VolumeSnapshotClass"])
def test_a_field_that_a_custom_resource_does_not_have_is_refused(kind: str, prod: Environment, client: Client) -> None:
    typo = copy.deepcopy(of_kind(prod.resources, kind)[0])
    typo.get("spec", typo)["sepc"] = {}

    with pytest.raises(RefusedError, match="sepc"):
        client.apply(typo, dry_run=True)


def test_a_privileged_pod_is_refused(prod: Environment, client: Client) -> None:
    pod = _pod_like_ads(prod)
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}

    with pytest.raises(RefusedError, match=r'violates PodSecurity "restricted:.*privileged') as refused:
        client.create(pod)
    assert refused.value.status == 403


def test_a_pod_of_ours_is_accepted_where_the_privileged_one_is_not(prod: Environment, client: Client) -> None:
    path = client.path_of(client.create(_pod_like_ads(prod)))

    client.delete(path)


def test_a_flow_whose_pods_would_be_refused_is_warned_of(prod: Environment, client: Client) -> None:
    """A StatefulSet is admitted whatever its pods are, so a test of refusals alone would not see this."""
    (loose,) = _resources(prod, "StatefulSet/ads")
    del loose["spec"]["template"]["spec"]["containers"][0]["securityContext"]

    assert "would violate PodSecurity" in " ".join(client.apply(loose, dry_run=True).warnings)


def _resources(prod: Environment, *names: str) -> list[Resource]:
    return [copy.deepcopy(resource) for resource in prod.resources if identity(resource) in names]


def _pod_like_ads(prod: Environment) -> Resource:
    (flow,) = _resources(prod, "StatefulSet/ads")
    template = flow["spec"]["template"]
    template["spec"]["volumes"].append({"name": "recovery", "emptyDir": {}})
    meta = {"name": "like-ads", "namespace": NAMESPACE, "annotations": template["metadata"].get("annotations", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}
