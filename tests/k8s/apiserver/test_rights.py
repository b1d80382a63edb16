from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pytest

from tests.k8s.apiserver.client import Client, RefusedError
from tests.k8s.apiserver.environment import NAMESPACE, Environment
from tests.k8s.render import of_kind
from tests.k8s.tally import Tally


class _Right(NamedTuple):
    group: str
    resource: str
    verb: str
    namespace: str = NAMESPACE


# What each account may do with the API server, beyond asking about itself.
_RIGHTS: dict[str, set[_Right]] = {
    "ads": set(),
    "warehouse": set(),
    "notices": set(),
    "apply": set(),
    "rescale": set(),
    "secrets": set(),
    "snapshots": {
        _Right("", "persistentvolumeclaims", "list"),
        _Right("snapshot.storage.k8s.io", "volumesnapshots", "create"),
        _Right("snapshot.storage.k8s.io", "volumesnapshots", "list"),
        _Right("snapshot.storage.k8s.io", "volumesnapshots", "delete"),
    },
}
# What an intruder in a pod would try first.
_FORBIDDEN = (
    _Right("", "secrets", "list"),
    _Right("", "secrets", "get", "kube-system"),
    _Right("", "configmaps", "get"),
    _Right("", "pods", "create"),
    _Right("", "pods/exec", "create"),
    _Right("", "pods/eviction", "create"),
    _Right("", "serviceaccounts/token", "create"),
    _Right("", "persistentvolumeclaims", "delete"),
    _Right("", "persistentvolumeclaims", "list", "kube-system"),
    _Right("", "nodes", "list", ""),
    _Right("apps", "statefulsets", "patch"),
    _Right("rbac.authorization.k8s.io", "rolebindings", "create"),
    _Right("snapshot.storage.k8s.io", "volumesnapshots", "delete", "kube-system"),
    _Right("snapshot.storage.k8s.io", "volumesnapshotcontents", "delete", ""),
)


@pytest.fixture(params=sorted(_RIGHTS))
def account(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def as_account(account: str, prod: Environment) -> Iterator[Client]:
    """Calls the server with a token of the account, as a process in its pod would."""
    with closing(prod.plane.client(token=prod.token(account))) as client:
        yield client


def test_every_account_is_looked_at(prod: Environment) -> None:
    assert {account["metadata"]["name"] for account in of_kind(prod.resources, "ServiceAccount")} == set(_RIGHTS)


def test_an_account_may_do_what_it_has_to_and_nothing_else(account: str, as_account: Client, tally: Tally) -> None:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "metadata": {},
        "spec": {"namespace": NAMESPACE},
    }
    rules = as_account.create(review)["status"]["resourceRules"]
    rights = {
        _Right(group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }

    # Every user may ask about itself.
    assert {right for right in rights if not right.resource.startswith("selfsubject")} == _RIGHTS[account]
    tally("RBAC", len(rights))


def test_what_an_intruder_would_try_is_refused(account: str, client: Client, tally: Tally) -> None:
    assert not [right for right in _FORBIDDEN if _may(client, account, right)]
    assert all(_may(client, account, right) for right in _RIGHTS[account])
    tally("RBAC", len(_FORBIDDEN) + len(_RIGHTS[account]))


def test_the_server_itself_refuses_to_show_secrets(as_account: Client, prod: Environment) -> None:
    with pytest.raises(RefusedError, match="cannot list resource") as refused:
        as_account.list(prod.path("Secret"))

    assert refused.value.status == 403


def _may(client: Client, account: str, right: _Right) -> bool:
    resource, _, part = right.resource.partition("/")
    spec = {
        "user": f"system:serviceaccount:{NAMESPACE}:{account}",
        "groups": ["system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}"],
        "resourceAttributes": {**right._asdict(), "resource": resource, "subresource": part},
    }
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": spec}
    return bool(client.create(review)["status"]["allowed"])
