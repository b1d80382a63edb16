from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.k8s.apiserver.client import Client
from tests.k8s.apiserver.environment import COMPONENT, Environment, environment
from tests.k8s.render import identity, of_kind
from tests.k8s.static.variants import VARIANTS
from tests.k8s.tally import Tally

_FLOW = "ads"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """An environment whose flows are Bytewax clusters."""
    resources = VARIANTS["cluster"].deployed(tmp_path_factory.mktemp("rendered"))
    without_jobs = tuple(r for r in resources if r["kind"] != "Job")
    with environment("dev", tmp_path_factory.mktemp("cluster"), without_jobs) as applied:
        yield applied


def test_flows_as_clusters_are_admitted_without_a_warning(cluster: Environment, tally: Tally) -> None:
    assert not [answer.warnings for answer in cluster.answers.values() if answer.warnings]
    tally("kube-apiserver", len(cluster.answers))


def test_pods_of_a_cluster_are_replaced_together_and_only_by_hand(cluster: Environment) -> None:
    """Processes with different address lists would wait for each other for ever."""
    cluster.until_ready(_FLOW)
    before = {pod["metadata"]["uid"] for pod in cluster.pods(_FLOW)}

    change = {"spec": {"template": {"metadata": {"annotations": {"tests/configuration": "new"}}}}}
    generation = cluster.client.patch(cluster.path("StatefulSet", _FLOW), change)["metadata"]["generation"]
    cluster.until("StatefulSet", _FLOW, lambda flow: flow["status"]["observedGeneration"] == generation)
    assert {pod["metadata"]["uid"] for pod in cluster.pods(_FLOW)} == before

    cluster.client.request("DELETE", cluster.path("Pod"), query={"labelSelector": f"{COMPONENT}={_FLOW}"})
    cluster.until_ready(_FLOW)
    assert not before & {pod["metadata"]["uid"] for pod in cluster.pods(_FLOW)}


def test_the_collector_is_admitted_without_a_warning(
    prod: Environment, client: Client, tmp_path: Path, tally: Tally
) -> None:
    """What the component adds; the rest of its overlay is not that of this environment."""
    known = {identity(resource) for resource in prod.resources}
    added = [r for r in VARIANTS["otel"].deployed(tmp_path) if identity(r) not in known and r["kind"] != "Job"]

    assert of_kind(tuple(added), "Deployment")
    assert not [answer.warnings for r in added if (answer := client.apply(r, dry_run=True)).warnings]
    tally("kube-apiserver", len(added))
