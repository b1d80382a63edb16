"""checkov finds nothing in the Terraform that has no reason beside it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.tally import Tally
from tests.k8s.terraform.conftest import Change
from tests.k8s.terraform.folder import TERRAFORM
from tests.k8s.tools import tool

# It takes some seconds of two cores; where many share them, minutes.
pytestmark = [pytest.mark.k8s, pytest.mark.timeout(900)]


def checked(*what: str | Path) -> dict[str, Any]:
    # The API that it would ask for texts is on the internet.
    arguments = ["--framework", "terraform", "--compact", "--skip-download", "--output", "json"]
    done = subprocess.run([tool("checkov"), *what, *arguments], check=False, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def failed(report: dict[str, Any]) -> set[tuple[str, str]]:
    return {(check["check_id"], check["resource"]) for check in report["results"]["failed_checks"]}


def test_nothing_is_found_in_prod_that_has_no_reason(tally: Tally) -> None:
    report = checked("--directory", TERRAFORM, "--var-file", TERRAFORM / "envs/prod.tfvars")
    assert report["summary"]["parsing_errors"] == 0
    assert failed(report) == set()
    for skipped in report["results"]["skipped_checks"]:
        assert len(skipped["check_result"]["suppress_comment"]) > 20, skipped["check_id"]
    tally("checkov", report["summary"]["passed"] + report["summary"]["skipped"])


def test_checkov_finds_a_planted_mistake(change: Change) -> None:
    folder = change("storage.tf", "uniform_bucket_level_access = true", "uniform_bucket_level_access = false")
    assert ("CKV_GCP_29", "google_storage_bucket.handover") in failed(checked("--file", folder / "storage.tf"))
