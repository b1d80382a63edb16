"""Where the Terraform is, and which environments it describes."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[3]
TERRAFORM = ROOT / "k8s/terraform"
ENVIRONMENTS = ("staging", "prod")
