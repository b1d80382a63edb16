"""Terraform itself, where it is installed: its own formatter, and what it evaluates without a provider."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.k8s.terraform.evaluation import committed
from tests.k8s.terraform.folder import ENVIRONMENTS, TERRAFORM

TERRAFORM_PROGRAM = shutil.which("terraform")

pytestmark = [
    pytest.mark.k8s,
    # No package registry has it, so a machine may be without; `unformatted` and `evaluate` stand in for it.
    pytest.mark.skipif(TERRAFORM_PROGRAM is None, reason="terraform is not on PATH"),
]

_LOCALS = re.compile(r"^locals \{\n.*?^\}\n", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"^  (\w+) += ", re.MULTILINE)


def terraform(*arguments: str, folder: Path, asked: str = "") -> str:
    assert TERRAFORM_PROGRAM is not None
    secrets = {"TF_VAR_vpn_shared_secrets": '["first", "second"]', "TF_CLI_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        [TERRAFORM_PROGRAM, *arguments],
        cwd=folder,
        env={**os.environ, **secrets},
        input=asked,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_terraforms_own_formatter_has_nothing_to_change() -> None:
    assert terraform("fmt", "-check", "-recursive", folder=TERRAFORM) == ""


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_terraform_evaluates_variables_and_locals_as_the_rules_see_them(environment: str, tmp_path: Path) -> None:
    # Without a provider it knows no resource, so locals that name one stay away.
    blocks = [
        block
        for path in sorted(TERRAFORM.glob("*.tf"))
        for block in _LOCALS.findall(path.read_text(encoding="utf-8"))
        if "google_" not in block
    ]
    (tmp_path / "locals.tf").write_text("".join(blocks), encoding="utf-8")
    shutil.copy(TERRAFORM / "variables.tf", tmp_path)
    shutil.copytree(TERRAFORM / "schemas", tmp_path / "schemas")
    plan = committed(environment)
    variables = {name: variable.value for name, variable in plan.variables.items()}
    names = {name for block in blocks for name in _NAME.findall(block)}
    given = ", ".join(f"{name} = var.{name}" for name in variables)
    made = "".join(f", {name} = local.{name}" for name in names)
    asked = f"nonsensitive(jsonencode({{ variables = {{ {given} }}{made} }}))\n"
    values = TERRAFORM / "envs" / f"{environment}.tfvars"
    said = terraform("console", "-var-file", str(values), folder=tmp_path, asked=asked)
    found = json.loads(json.loads(said))
    assert found.pop("variables") == variables
    assert found == {name: plan.locals[name] for name in names}
    assert {"tables", "tables_of_boxes", "team_members", "workloads"} <= names
