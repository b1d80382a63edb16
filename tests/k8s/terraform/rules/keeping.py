"""What is kept, how it is encrypted, and what goes by itself."""

from __future__ import annotations

from tests.k8s.terraform.evaluation import Plan
from tests.k8s.terraform.rules.reading import texts


def buckets_are_closed(plan: Plan) -> list[str]:
    """Uniform access, public access prevented, objects go by themselves, no deletion with content."""
    found = []
    for bucket in plan.of_type("google_storage_bucket"):
        if bucket.values.get("uniform_bucket_level_access") is not True:
            found.append(f"{bucket.where} has access lists per object")
        if bucket.values.get("public_access_prevention") != "enforced":
            found.append(f"{bucket.where} could be made public")
        if bucket.values.get("force_destroy") is not False:
            found.append(f"{bucket.where} is deleted with what is in it")
        if not any(
            action.get("type") == "Delete"
            for rule in bucket.values.get("lifecycle_rule", ())
            for action in rule["action"]
        ):
            found.append(f"{bucket.where} keeps personal data for ever")
    return found


def what_cannot_be_made_again_is_kept(plan: Plan) -> list[str]:
    """Kafka's records, allowed addresses and handed-over state survive a mistaken `terraform destroy`."""
    kept = ("google_managed_kafka_cluster", "google_compute_address", "google_storage_bucket")
    found = [
        f"{resource.where} has no prevent_destroy"
        for resource in plan.of_type(*kept)
        if resource.lifecycle.get("prevent_destroy") != "true"
    ]
    found += [
        f"{secret.where} is not protected from deletion"
        for secret in plan.of_type("google_secret_manager_secret")
        if secret.values.get("deletion_protection") is not True
    ]
    found += [
        f"{dataset.where} is deleted with its tables"
        for dataset in plan.of_type("google_bigquery_dataset")
        if dataset.values.get("delete_contents_on_destroy") is not False
    ]
    return found


def keys_are_used_where_they_are_given(plan: Plan) -> list[str]:
    """A customer-managed key that is configured is the key of everything that it is for."""
    places = {
        "bigquery": ("google_bigquery_dataset", "google_bigquery_table"),
        "gke": ("google_container_cluster", "google_gke_backup_backup_plan"),
        "kafka": ("google_managed_kafka_cluster",),
        "registry": ("google_artifact_registry_repository",),
        "secrets": ("google_secret_manager_secret",),
        "storage": ("google_storage_bucket",),
    }
    return [
        f"{resource.where} is not encrypted with the key for {use}"
        for use, key in plan.variables["kms_keys"].value.items()
        if key is not None
        for resource in plan.of_type(*places[use])
        if "view" not in resource.values and key not in texts(resource.values)
    ]
