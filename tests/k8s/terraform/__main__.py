"""Fetch what the checks of the Terraform need, so that no test waits for it: `python -m tests.k8s.terraform`."""

from __future__ import annotations

from tests.k8s.terraform.evaluation import committed
from tests.k8s.terraform.folder import ENVIRONMENTS
from tests.k8s.terraform.provider import VERSION, provider

if __name__ == "__main__":
    resources = len(provider().resources)
    print(f"{'provider google':<24} {VERSION}, {resources:,} resource types")  # noqa: T201  what this command is for
    for environment in ENVIRONMENTS:
        print(f"{environment:<24} {len(committed(environment).resources)} resources")  # noqa: T201  likewise
