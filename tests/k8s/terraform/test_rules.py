"""The rules hold for every environment, and each of them finds the mistake that it is for."""

from __future__ import annotations

import pytest

from tests.k8s.tally import Tally
from tests.k8s.terraform.conftest import Change
from tests.k8s.terraform.evaluation import EvaluationError, committed, evaluate, unformatted
from tests.k8s.terraform.folder import ENVIRONMENTS, TERRAFORM
from tests.k8s.terraform.mistakes import MISTAKES, Mistake
from tests.k8s.terraform.rules import RULES, Rule
from tests.k8s.terraform.rules.declarations import secrets_in_text

pytestmark = pytest.mark.k8s


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(environment: str, rule: Rule, tally: Tally) -> None:
    assert rule(committed(environment)) == []
    tally("terraform rules", 1)


def test_files_are_formatted_as_terraform_would() -> None:
    assert unformatted() == []


def test_files_hold_no_secrets() -> None:
    assert secrets_in_text(TERRAFORM) == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: f"{mistake.rule.__name__}: {mistake.says}")
def test_planted_mistake_is_found(mistake: Mistake, change: Change) -> None:
    folder = change(mistake.file, mistake.old, mistake.new)
    found = mistake.rule(evaluate("prod", folder))
    assert any(mistake.says in finding for finding in found), found


def test_every_rule_is_proven_by_a_mistake() -> None:
    assert {mistake.rule for mistake in MISTAKES} == set(RULES)


def test_unformatted_file_is_found(change: Change) -> None:
    folder = change("budget.tf", "  billing_account = ", "  billing_account=")
    assert unformatted(folder) == [str(folder / "budget.tf")]


@pytest.mark.parametrize(
    "text", ["-----BEGIN PRIVATE KEY-----", '"private_key_id"', '"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2Vj"']
)
def test_secret_in_a_file_is_found(change: Change, text: str) -> None:
    assert secrets_in_text(change("envs/prod.tfvars", "# Example values", f"# {text}\n# Example values"))


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("network.tf", "var.ranges.nodes", "var.ranges.machines", "machines"),
        (
            "bigquery.tf",
            "google_bigquery_dataset.views.dataset_id\n",
            "google_bigquery_dataset.look.dataset_id\n",
            "google_bigquery_dataset",
        ),
        ("network.tf", "google_compute_network.main.id", "google_compute_network.main.ident", "ident"),
        ("envs/prod.tfvars", "retention_days = 90", "retention_days = 0", "Personal data expires"),
        ("envs/prod.tfvars", "retention_days = 90", 'retention_days = "long"', "a number is required"),
        ("envs/prod.tfvars", "nat_addresses = 2", "nat_addresses = 1", "At least two"),
        ("envs/prod.tfvars", "retention_days = 90", "retention_day = 90", "retention_day"),
        ("envs/prod.tfvars", "external-secrets@sha256:", "external-secrets:v1#", "Only NAME@sha256:DIGEST"),
        ("variables.tf", 'default     = ["0"]', 'default     = ["x"]', "Lower-case hex digits"),
    ],
)
def test_wrong_reference_or_value_is_refused(change: Change, file: str, old: str, new: str, says: str) -> None:
    folder = change(file, old, new)
    with pytest.raises(EvaluationError, match=says):
        evaluate("prod", folder)
