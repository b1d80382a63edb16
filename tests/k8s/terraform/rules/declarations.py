"""The files themselves: documented, known to the provider, with their APIs enabled and no secrets in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.k8s.terraform.evaluation import Plan
from tests.k8s.terraform.provider import Block, provider
from tests.k8s.terraform.rules.reading import texts


def declarations_are_documented(plan: Plan) -> list[str]:
    """Variables say what they are and of which type, outputs what they are for; all are used."""
    found = []
    named = {name for names in plan.references.values() for name in names or ()}
    for name, variable in plan.variables.items():
        if not variable.type or variable.type == "any":
            found.append(f"variable {name} has no type")
        if len(variable.description) < 20:
            found.append(f"variable {name} is not described")
        if f"var.{name}" not in named:
            found.append(f"variable {name} is not used")
    found += [f"local {name} is not used" for name in plan.locals if f"local.{name}" not in named]
    found += [
        f"output {name} is not described" for name, output in plan.outputs.items() if len(output.description) < 20
    ]
    return found


def services_are_enabled(plan: Plan) -> list[str]:
    """Every API that a resource needs is switched on."""
    needs = {
        "google_artifact_registry": "artifactregistry",
        "google_bigquery_datapolicy": "bigquerydatapolicy",
        "google_bigquery": "bigquery",
        "google_billing_budget": "billingbudgets",
        "google_binary_authorization": "binaryauthorization",
        "google_cloud_quotas": "cloudquotas",
        "google_compute": "compute",
        "google_container_analysis": "containeranalysis",
        "google_container_cluster": "container",
        "google_data_catalog": "datacatalog",
        "google_dns": "dns",
        "google_gke_backup": "gkebackup",
        "google_managed_kafka": "managedkafka",
        "google_monitoring": "monitoring",
        "google_project": "iam",
        "google_secret_manager": "secretmanager",
        "google_service_account": "iam",
        "google_storage": "storage",
    }
    enabled = {service.values["service"] for service in plan.of_type("google_project_service")}
    found = []
    for kind in sorted({resource.type for resource in plan.resources}):
        service = next((needs[prefix] for prefix in needs if kind.startswith(prefix)), None)
        if service is None:
            found.append(f"which API does {kind} need? Say so in this rule")
        elif f"{service}.googleapis.com" not in enabled:
            found.append(f"{kind} needs {service}.googleapis.com, which is not enabled")
    return found


def the_provider_knows_it(plan: Plan) -> list[str]:
    """All arguments exist in the provider, what it requires is there, and choices are among those it documents."""
    known = provider().resources
    found = []
    for resource in plan.resources:
        if resource.type in known:
            found += [f"{resource.where}: {each}" for each in _unknown(resource.values, known[resource.type])]
        else:
            found.append(f"{resource.where}: the provider has no {resource.type}")
    return found


def secrets_in_text(folder: Path) -> list[str]:
    """Files that hold what looks like a secret: private keys, keys of service accounts, long random texts."""
    suspicious = re.compile(r"PRIVATE KEY|private_key_id|AIza[\w-]{30}|\bya29\.|[\"'][A-Za-z0-9+/=]{40,}[\"']")
    return [
        f"{path.name}: {found.group(0)[:20]}"
        for path in sorted([*folder.rglob("*.tf"), *folder.rglob("*.tfvars")])
        for found in suspicious.finditer(path.read_text(encoding="utf-8"))
    ]


def _unknown(values: dict[str, Any], block: Block) -> list[str]:
    names = block.attributes | block.blocks.keys() | {"project"}
    found = [f"there is no argument {name}" for name in values if name not in names]
    found += [f"the argument {name} is missing" for name in block.required if name not in values]
    found += [
        f"{name} cannot be {text}"
        for name, allowed in block.choices.items()
        for text in texts(values.get(name))
        if text not in allowed
    ]
    for name, inner in block.blocks.items():
        for each in values.get(name, ()):
            found += [f"{name}: {problem}" for problem in _unknown(each, inner)]
    return found
