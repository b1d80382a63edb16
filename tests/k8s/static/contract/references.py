"""Objects that are named exist, and each account can do what it has to and nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from tests.k8s.render import Resource, identity
from tests.k8s.static.contract.model import NAMESPACE, Deployment, Report
from tests.k8s.static.contract.program import parsed
from tests.k8s.static.workloads import Workload

_OF_THE_CLUSTER = frozenset({"Namespace", "PersistentVolume", "PriorityClass", "StorageClass", "VolumeSnapshotClass"})
_VERBS = frozenset({"create", "delete", "get", "list", "patch", "update", "watch"})

Name = tuple[str, str]


def named_objects_exist(deployment: Deployment, report: Report) -> None:
    """Whatever is named by another object is there; whatever is there is named by another."""
    there = {(one["kind"], one["metadata"]["name"]) for one in deployment.resources}
    # The operator makes these.
    there |= {("Secret", one["spec"]["target"]["name"]) for one in deployment.of("ExternalSecret")}
    used: set[Name] = set()
    for place, name in _references(deployment):
        used.add(name)
        report.expect(name in there, f"{place}: there is no {name[0]} {name[1]}")
    for kind, name in sorted(there):
        if kind in {"ConfigMap", "PersistentVolumeClaim", "PriorityClass", "Role", "Secret", "ServiceAccount"}:
            report.expect((kind, name) in used, f"{kind}/{name}: nobody uses it")


def _references(deployment: Deployment) -> Iterator[tuple[str, Name]]:
    for one in deployment.workloads:
        for name in _named_by_pods(one):
            yield one.name, name
        for claim in one.owner["spec"].get("volumeClaimTemplates", ()):
            if (storage := claim["spec"].get("storageClassName")) is not None:
                yield one.name, ("StorageClass", storage)
    yield from _named_for_volumes(deployment)
    for binding in deployment.of("RoleBinding"):
        yield identity(binding), (binding["roleRef"]["kind"], binding["roleRef"]["name"])
        for subject in binding["subjects"]:
            yield identity(binding), (subject["kind"], subject["name"])
    yield from _named_for_secrets(deployment)


def _named_for_volumes(deployment: Deployment) -> Iterator[tuple[str, Name]]:
    for claim in deployment.of("PersistentVolumeClaim"):
        volume, storage = claim["spec"].get("volumeName"), claim["spec"].get("storageClassName")
        if volume is not None:
            yield identity(claim), ("PersistentVolume", volume)
        elif storage is not None:
            yield identity(claim), ("StorageClass", storage)
    for volume in deployment.of("PersistentVolume"):
        if (claimed := volume["spec"].get("claimRef")) is not None:
            yield identity(volume), ("PersistentVolumeClaim", claimed["name"])


def _named_by_pods(one: Workload) -> Iterator[Name]:
    yield "ServiceAccount", one.spec.get("serviceAccountName", "default")
    if (priority := one.spec.get("priorityClassName")) is not None:
        yield "PriorityClass", priority
    for volume in one.spec.get("volumes", ()):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in one.containers:
        args = container.get("args", [])
        if args[:1] == ["snapshot-volumes"] and (name := parsed(args)[1].get("snapshot_class")) is not None:
            yield "VolumeSnapshotClass", name


def _named_for_secrets(deployment: Deployment) -> Iterator[tuple[str, Name]]:
    for external in deployment.of("ExternalSecret"):
        store = external["spec"]["secretStoreRef"]
        yield identity(external), (store["kind"], store["name"])
    for store in deployment.of("SecretStore"):
        for provider in store["spec"]["provider"].values():
            account = provider["auth"]["workloadIdentity"]["serviceAccountRef"]["name"]
            yield identity(store), ("ServiceAccount", account)


def everything_is_in_the_namespace(deployment: Deployment, report: Report) -> None:
    """All is in one namespace, but for what cannot be; all says whose it is."""
    for one in deployment.resources:
        place, name = identity(one), one["metadata"].get("namespace")
        expected = None if one["kind"] in _OF_THE_CLUSTER else NAMESPACE
        report.expect(name == expected, f"{place}: is in the namespace {name}, not in {expected}")
        labels = one["metadata"].get("labels", {})
        report.expect(
            labels.get("app.kubernetes.io/part-of") == "datastreamx" and labels.get("app.kubernetes.io/name"),
            f"{place}: does not say what it is part of",
        )
    for volume in deployment.of("PersistentVolume"):
        claimed = volume["spec"].get("claimRef", {}).get("namespace")
        report.expect(claimed == NAMESPACE, f"{identity(volume)}: waits for a claim in {claimed}")


def tokens_are_mounted_only_where_needed(deployment: Deployment, report: Report) -> None:
    """A pod has a token for the API server if its account has rights there, and none otherwise."""
    bound = {subject["name"] for one in deployment.of("RoleBinding") for subject in one["subjects"]}
    for one in deployment.workloads:
        needs = one.spec["serviceAccountName"] in bound
        report.expect(
            one.spec.get("automountServiceAccountToken") is needs,
            f"{one.name}: automountServiceAccountToken is {one.spec.get('automountServiceAccountToken')}, not {needs}",
        )
        report.expect(one.spec.get("enableServiceLinks") is False, f"{one.name}: is told of every Service by variables")
    for account in deployment.of("ServiceAccount"):
        report.expect(
            account.get("automountServiceAccountToken") is False, f"{identity(account)}: gives its token to any pod"
        )
    used = [one.spec["serviceAccountName"] for one in deployment.workloads]
    report.expect(len(used) == len(set(used)), f"workloads share a service account: {used}")


def rights_are_those_that_are_used(deployment: Deployment, report: Report) -> None:
    """Rights are listed one by one, and nobody has any outside of the namespace."""
    broad = deployment.of("ClusterRole", "ClusterRoleBinding")
    report.expect(not broad, f"rights over the whole cluster: {[identity(one) for one in broad]}")
    for role in deployment.of("Role"):
        for rule in role["rules"]:
            words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            report.expect("*" not in words, f"{identity(role)}: {rule} is too broad")
            report.expect(set(rule["verbs"]) <= _VERBS, f"{identity(role)}: {rule['verbs']} are unusual")
            report.expect(
                not {"secrets", "pods/exec", "rolebindings", "roles"} & set(rule["resources"]),
                f"{identity(role)}: {rule['resources']} are as good as all rights",
            )


def secrets_hold_nothing_real(deployment: Deployment, report: Report) -> None:
    """Values of Secrets are in git for dev alone, and look like what they are."""
    for secret in deployment.of("Secret"):
        report.expect(deployment.environment == "dev", f"{identity(secret)}: its values are in git")
        for key, value in _values(secret):
            dummy = "not-a-secret" in value or len(set(value)) <= 2
            report.expect(dummy, f"{identity(secret)}: {key} looks like a real value")
    for external in deployment.of("ExternalSecret"):
        report.expect(
            external["spec"]["target"].get("deletionPolicy") == "Retain",
            f"{identity(external)}: a secret that is deleted by mistake is taken from the pods",
        )


def _values(secret: Resource) -> Iterator[tuple[str, str]]:
    for key, value in secret.get("data", {}).items():
        yield key, base64.b64decode(value).decode("utf-8", errors="replace")
    yield from secret.get("stringData", {}).items()
