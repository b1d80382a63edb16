from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.k8s.apiserver.environment import COMPONENT, Environment
from tests.k8s.render import Resource

_FLOW = "notices"
_REVISION = "controller-revision-hash"
_ANNOTATION = "tests/configuration"


@pytest.fixture
def ids(prod: Environment) -> Iterator[dict[str, str]]:
    """The ids of the flow's pods before the roll-out, by name."""
    prod.until_ready(_FLOW)
    patience_s = prod.get("StatefulSet", _FLOW)["spec"]["minReadySeconds"]
    yield _ids(prod.pods(_FLOW))
    _change(prod, None, partition=0, min_ready_s=0)
    prod.until_ready(_FLOW)
    _change(prod, None, partition=0, min_ready_s=patience_s)


def test_a_rollout_starts_with_the_canary_and_goes_on_one_ready_pod_after_the_other(
    prod: Environment, ids: dict[str, str]
) -> None:
    *rest, canary = sorted(ids)

    _change(prod, "new", partition=len(rest))
    # All are available only when the canary has been ready for as long as the manifest asks, so whatever was to be
    # replaced after it would be by now.
    prod.until("StatefulSet", _FLOW, lambda flow: _updated_and_available(flow) == (1, len(ids)))
    assert _replaced(prod, ids) == {canary}

    # Without that patience for each of the others.
    _change(prod, "new", partition=0, min_ready_s=0)
    order, ready_min = _watch_replacement(prod, ids, already=canary)
    prod.until_ready(_FLOW)

    assert order == sorted(rest, reverse=True)
    assert ready_min >= len(ids) - 1
    assert len({pod["metadata"]["labels"][_REVISION] for pod in prod.pods(_FLOW)}) == 1


def test_a_pod_that_does_not_become_ready_stops_the_rollout(prod: Environment, ids: dict[str, str]) -> None:
    *rest, last = sorted(ids)

    with prod.cordoned():
        _change(prod, "bad", partition=0, min_ready_s=0)
        prod.until("StatefulSet", _FLOW, lambda flow: _updated_and_available(flow) == (1, len(rest)))
        # Makes the controller look again, and have its chance to go on.
        _change(prod, "bad", partition=0, min_ready_s=1)
        prod.until("StatefulSet", _FLOW, lambda flow: _updated_and_available(flow) == (1, len(rest)))

        assert _replaced(prod, ids) == {last}


def _change(prod: Environment, configuration: str | None, *, partition: int, min_ready_s: int | None = None) -> None:
    """Give the pods another template, as the hash in the name of another ConfigMap does."""
    template = {"metadata": {"annotations": {_ANNOTATION: configuration}}}
    spec: Resource = {"template": template, "updateStrategy": {"rollingUpdate": {"partition": partition}}}
    if min_ready_s is not None:
        spec["minReadySeconds"] = min_ready_s
    prod.client.patch(prod.path("StatefulSet", _FLOW), {"spec": spec})


def _updated_and_available(flow: Resource) -> tuple[int, int] | None:
    status = flow["status"]
    if status["observedGeneration"] != flow["metadata"]["generation"]:
        return None
    return status.get("updatedReplicas", 0), status.get("availableReplicas", 0)


def _ids(pods: tuple[Resource, ...]) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}


def _replaced(prod: Environment, ids: dict[str, str]) -> set[str]:
    now = _ids(prod.pods(_FLOW))
    return {name for name, uid in ids.items() if now.get(name) != uid}


def _watch_replacement(prod: Environment, ids: dict[str, str], already: str) -> tuple[list[str], int]:
    """See in which order the pods are replaced, and how many were ready at the worst moment."""
    order: list[str] = []
    ready: list[int] = []

    def all_replaced(pods: tuple[Resource, ...]) -> bool:
        new = {name for name, uid in _ids(pods).items() if ids[name] != uid and name not in {already, *order}}
        order.extend(sorted(new))
        ready.append(sum(map(_is_ready, pods)))
        return len(order) == len(ids) - 1 and ready[-1] == len(ids)

    prod.client.until(prod.path("Pod"), all_replaced, selector=f"{COMPONENT}={_FLOW}")
    return order, min(ready)


def _is_ready(pod: Resource) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
