"""Who may do what: roles, members, service accounts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.k8s.terraform.evaluation import Plan, Resource
from tests.k8s.terraform.rules.reading import texts

# Names under which BigQuery stores its predefined roles on datasets.
DATASET_ROLES = {
    "OWNER": "roles/bigquery.dataOwner",
    "WRITER": "roles/bigquery.dataEditor",
    "READER": "roles/bigquery.dataViewer",
}

ROLES = {
    "roles/artifactregistry.reader": "pull images",
    "roles/artifactregistry.writer": "push images",
    "roles/bigquery.dataEditor": "on a dataset: warehouse and apply write, privacy erases, scientists have a sandbox",
    "roles/bigquery.dataViewer": "on a dataset or table: read what policies let through",
    "roles/bigquery.jobUser": "run queries, within the quota",
    "roles/bigquery.readSessionUser": "read results as Arrow",
    "roles/bigquerydatapolicy.maskedReader": "on the data policy of box_key: read its hash",
    "roles/binaryauthorization.attestorsViewer": "find the attestor to sign for",
    "roles/container.defaultNodeServiceAccount": "logs and metrics of nodes",
    "roles/container.developer": "operators roll out, restart and start Jobs; it includes Kubernetes' Secrets",
    "roles/containeranalysis.notes.attacher": "attach attestations",
    "roles/containeranalysis.occurrences.editor": "write attestations",
    "roles/datacatalog.categoryFineGrainedReader": "on the policy tag of box_key: read it plainly",
    "roles/iam.workloadIdentityUser": "on a service account: act as it without a key",
    "roles/logging.viewer": "read logs",
    "roles/managedkafka.client": "connect to brokers; ACLs say what may be done there",
    "roles/managedkafka.viewer": "see the cluster, no records",
    "roles/monitoring.viewer": "see dashboards",
    "roles/secretmanager.secretAccessor": "on a secret: read its value",
    "roles/storage.objectUser": "on a bucket: read and write objects",
}
# Broad ones that are granted all the same: a dataset has an owner, the account that applies this.
BROAD = frozenset(
    (f"google_bigquery_dataset.{name}", "roles/bigquery.dataOwner") for name in ("main", "views", "sandbox")
)
_IS_BROAD = re.compile(r"^roles/(owner|editor|viewer|browser)$|[aA]dmin$|Owner$|serviceAccountTokenCreator$")

# Roles that open what they are granted on, so a project is too much.
_NEVER_ON_PROJECT = frozenset(
    {
        "roles/bigquery.dataEditor",
        "roles/bigquery.dataViewer",
        "roles/iam.workloadIdentityUser",
        "roles/secretmanager.secretAccessor",
        "roles/storage.objectUser",
        "roles/artifactregistry.writer",
        "roles/datacatalog.categoryFineGrainedReader",
    }
)


def roles_are_narrow(plan: Plan) -> list[str]:
    """Every role is on the list, none is broad but those with a reason, and data is not opened by the project."""
    found = []
    for resource, role in _grants(plan):
        if role not in ROLES and (resource.address, role) not in BROAD:
            found.append(f"{resource.where} grants {role}, which is not on the list")
        if _IS_BROAD.search(role) and (resource.address, role) not in BROAD:
            found.append(f"{resource.where} grants the broad role {role}")
        if resource.type == "google_project_iam_member" and role in _NEVER_ON_PROJECT:
            found.append(f"{resource.where} grants {role} on the whole project")
    found += [
        f"{resource.where} replaces what others have granted"
        for resource in plan.resources
        if resource.type.endswith(("_iam_policy", "_iam_binding"))
    ]
    return found


def nobody_is_everybody(plan: Plan) -> list[str]:
    """No allUsers, no allAuthenticatedUsers, no whole domain, anywhere."""
    public = re.compile(r"\b(allUsers|allAuthenticatedUsers)\b|^domain:|\*@")
    found = []
    for resource in plan.resources:
        found += [f"{resource.where} lets in {text}" for text in texts(resource.values) if public.search(text)]
        found += [
            f"{resource.where} lets in a domain" for access in resource.values.get("access", ()) if "domain" in access
        ]
    return found


def no_keys_and_no_secrets(plan: Plan) -> list[str]:
    """No keys of service accounts, no values of secrets, nothing sensitive with a default."""
    forbidden = ("google_service_account_key", "google_storage_hmac_key", "google_secret_manager_secret_version")
    found = [f"{resource.where} puts a secret into the state" for resource in plan.of_type(*forbidden)]
    found += [
        f"variable {name} is a secret and has a value in the files"
        for name, variable in plan.variables.items()
        if re.search("secret|password|token", name) and not variable.sensitive and isinstance(variable.value, str)
    ]
    return found


def secrets_are_read_by_who_needs_them(plan: Plan) -> list[str]:
    """The operator that brings them into the cluster reads all, the privacy team the one behind the pseudonyms."""
    operator = f"serviceAccount:datastreamx-secrets@{plan.variables['project_id'].value}.iam.gserviceaccount.com"
    privacy = f"group:{plan.variables['groups'].value['privacy']}"
    found = []
    for secret in plan.of_type("google_secret_manager_secret"):
        readers = {
            member.values["member"]
            for member in plan.of_type("google_secret_manager_secret_iam_member")
            if member.values["secret_id"] == f"${{{secret.address}.id}}"
        }
        wanted = {operator, privacy} if secret.key == "datastreamx-box-key-secret" else {operator}
        if readers != wanted:
            found.append(f"{secret.where} is read by {sorted(readers)}, it should be by {sorted(wanted)}")
    return found


def accounts_are_used_by_their_workload_alone(plan: Plan) -> list[str]:
    """Each service account has rights somewhere, and only the Kubernetes account of its name may act as it."""
    found = []
    used = [
        text
        for resource in plan.resources
        if resource.type not in {"google_service_account", "google_service_account_iam_member"}
        for text in texts(resource.values)
    ]
    project = plan.variables["project_id"].value
    for account in plan.of_type("google_service_account"):
        email = f"{account.values['account_id']}@{project}.iam.gserviceaccount.com"
        if not any(email in text for text in used):
            found.append(f"{account.where} has no rights: nobody uses it")
        actors = [
            member.values["member"]
            for member in plan.of_type("google_service_account_iam_member")
            if member.values["service_account_id"] == f"${{{account.address}.name}}"
        ]
        if account.name == "workload":
            wanted = [f"serviceAccount:{project}.svc.id.goog[{plan.locals['namespace']}/{account.key}]"]
            if actors != wanted:
                found.append(f"{account.where} may be acted as by {actors}, not by {wanted} alone")
    return found


def _grants(plan: Plan) -> Iterator[tuple[Resource, str]]:
    for resource in plan.resources:
        if resource.type.endswith("_iam_member"):
            yield resource, resource.values["role"]
        for access in resource.values.get("access", ()):
            if "role" in access:
                yield resource, DATASET_ROLES.get(access["role"], access["role"])
