from __future__ import annotations

import pytest

from tests.k8s.apiserver.client import RefusedError
from tests.k8s.apiserver.environment import FLOWS, NAMESPACE, Environment
from tests.k8s.render import Resource


@pytest.mark.parametrize("flow", FLOWS)
def test_a_budget_counts_the_pods_of_its_flow_and_lets_one_go(flow: str, prod: Environment) -> None:
    pods = prod.replicas(flow)
    wanted = {"expectedPods": pods, "currentHealthy": pods, "desiredHealthy": pods - 1, "disruptionsAllowed": 1}

    prod.until("PodDisruptionBudget", flow, lambda budget: wanted.items() <= budget["status"].items())


def test_a_drain_gets_one_pod_of_a_flow_at_a_time(prod: Environment) -> None:
    """The second has to wait until the first is ready again; another flow does not have to wait for it."""
    prod.until_ready()
    prod.until("PodDisruptionBudget", "warehouse", _allows_one)
    with prod.cordoned():
        _evict(prod, "warehouse-0")

        with pytest.raises(RefusedError, match="disruption budget") as refused:
            _evict(prod, "warehouse-1")
        assert refused.value.status == 429
        _evict(prod, "notices-0")

    prod.until_ready("warehouse", "notices")
    prod.until("PodDisruptionBudget", "warehouse", _allows_one)
    _evict(prod, "warehouse-1")
    prod.until_ready("warehouse")


def test_pods_that_are_not_ready_do_not_block_the_drain_of_their_nodes(prod: Environment) -> None:
    """By the default policy nobody could move either of two sick pods: they are more than the budget may miss."""
    prod.until_ready("ads")
    for pod in ("ads-2", "ads-5"):
        prod.say_ready(pod, ready=False)
    healthy = prod.replicas("ads") - 2
    prod.until("PodDisruptionBudget", "ads", lambda budget: budget["status"]["currentHealthy"] == healthy)

    with pytest.raises(RefusedError, match="disruption budget"):
        _evict(prod, "ads-3")
    # Both before the first is back, or there would be only one.
    with prod.cordoned():
        _evict(prod, "ads-2")
        _evict(prod, "ads-5")

    prod.until_ready("ads")


def _allows_one(budget: Resource) -> bool:
    return bool(budget["status"]["disruptionsAllowed"] == 1)


def _evict(prod: Environment, pod: str) -> None:
    """Ask as `kubectl drain` does."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
    prod.client.request("POST", prod.path("Pod", pod, "eviction"), body)
