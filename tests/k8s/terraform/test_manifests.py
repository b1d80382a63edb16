"""The names here are those that the manifests and their configuration use."""

from __future__ import annotations

import tomllib
from functools import cache
from typing import Any

import msgspec
import pytest

from datastreamx.config.structs import TopicsConfig
from tests.k8s.render import K8S, Resource, of_kind, render
from tests.k8s.terraform.evaluation import committed
from tests.k8s.terraform.folder import ENVIRONMENTS

pytestmark = [pytest.mark.k8s, pytest.mark.parametrize("environment", ENVIRONMENTS)]

IDENTITY = "iam.gke.io/gcp-service-account"


def manifests(environment: str, *kinds: str) -> tuple[Resource, ...]:
    return of_kind(render(K8S / "overlays" / environment), *kinds)


@cache
def settings(environment: str) -> dict[str, Any]:
    return tomllib.loads((K8S / "overlays" / environment / "datastreamx.toml").read_text(encoding="utf-8"))


def policy(environment: str, name: str) -> list[str]:
    (found,) = (p for p in manifests(environment, "NetworkPolicy") if p["metadata"]["name"] == name)
    return [to["ipBlock"]["cidr"] for rule in found["spec"]["egress"] for to in rule["to"]]


def test_accounts_of_pods_act_as_the_accounts_that_are_made(environment: str) -> None:
    annotated = {
        account["metadata"]["name"]: account["metadata"]["annotations"][IDENTITY]
        for account in manifests(environment, "ServiceAccount")
        if IDENTITY in account["metadata"].get("annotations", {})
    }
    assert annotated == committed(environment).outputs["service_accounts"].value


def test_namespace_is_the_one_whose_accounts_are_bound(environment: str) -> None:
    (namespace,) = manifests(environment, "Namespace")
    assert namespace["metadata"]["name"] == committed(environment).locals["namespace"]
    namespaces = {each["metadata"]["namespace"] for each in manifests(environment, "ServiceAccount")}
    assert namespaces == {committed(environment).locals["namespace"]}


def test_handover_volume_is_the_bucket(environment: str) -> None:
    handles = {
        volume["spec"]["csi"]["volumeHandle"]
        for volume in manifests(environment, "PersistentVolume")
        if volume["spec"]["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    }
    assert handles == {committed(environment).outputs["handover_bucket"].value}


def test_only_who_mounts_the_bucket_may_use_it(environment: str) -> None:
    mounting = {
        each["spec"]["template"]["spec"]["serviceAccountName"]
        for folder in (K8S / "overlays" / environment, K8S / "jobs" / environment / "rescale")
        for each in of_kind(render(folder), "StatefulSet", "Job")
        if any(
            volume.get("persistentVolumeClaim", {}).get("claimName") == "handover"
            for volume in each["spec"]["template"]["spec"]["volumes"]
        )
    }
    members = committed(environment).of_type("google_storage_bucket_iam_member")
    assert {str(member.key) for member in members} == mounting


def test_images_come_from_the_repository(environment: str) -> None:
    repository = committed(environment).outputs["image_repository"].value
    images = {
        container["image"].split("@")[0].rpartition(":")[0] or container["image"].split("@")[0]
        for each in manifests(environment, "StatefulSet")
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert images == {f"{repository}/datastreamx"}


def test_secrets_that_are_fetched_have_a_place(environment: str) -> None:
    fetched = {
        entry["remoteRef"]["key"]
        for external in manifests(environment, "ExternalSecret")
        for entry in external["spec"]["data"]
    }
    assert fetched == {str(secret.key) for secret in committed(environment).of_type("google_secret_manager_secret")}


def test_secret_store_knows_project_and_cluster(environment: str) -> None:
    (store,) = manifests(environment, "SecretStore")
    provider = store["spec"]["provider"]["gcpsm"]
    identity = provider["auth"]["workloadIdentity"]
    variables = committed(environment).variables
    assert provider["projectID"] == variables["project_id"].value
    assert identity["clusterName"] == committed(environment).outputs["cluster"].value
    assert identity["clusterLocation"] == variables["region"].value
    assert identity["serviceAccountRef"]["name"] in committed(environment).locals["workloads"]


def test_policies_name_the_addresses_of_kafka_the_control_plane_and_googles_apis(environment: str) -> None:
    ranges = committed(environment).variables["ranges"].value
    assert policy(environment, "egress-kafka") == [ranges["kafka"]]
    assert policy(environment, "egress-api-server") == [ranges["control_plane"]]
    first, *_, last = committed(environment).locals["private_google_access"]
    assert (first, last) == ("199.36.153.8", "199.36.153.11")
    assert policy(environment, "egress-google-apis") == ["199.36.153.8/30"]


def test_configuration_names_brokers_and_dataset(environment: str) -> None:
    configured = settings(environment)
    (dataset,) = (d for d in committed(environment).of_type("google_bigquery_dataset") if d.name == "main")
    assert configured["kafka"]["bootstrap"] == committed(environment).outputs["kafka_bootstrap"].value
    assert configured["bigquery"]["project"] == committed(environment).variables["project_id"].value
    assert configured["bigquery"].get("dataset", "datastreamx") == dataset.values["dataset_id"]
    assert configured["bigquery"]["location"] == dataset.values["location"]


def test_rights_are_for_the_configured_topics(environment: str) -> None:
    topics = msgspec.convert(settings(environment).get("topics", {}), TopicsConfig)
    named = {
        str(rights.values["acl_id"]).removeprefix("topic/")
        for rights in committed(environment).of_type("google_managed_kafka_acl")
        if str(rights.values["acl_id"]).startswith("topic/")
    }
    assert named == {topics.events, topics.decisions, topics.facts, topics.dead_letters}
