"""The Terraform as it comes out for an environment: what Terraform would evaluate, without a provider and a cloud.

The evaluator (`evaluate/`, Go) uses the library that Terraform uses for its language. What only the cloud knows stands
as `${ADDRESS.ATTRIBUTE}`.
"""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from tests.k8s import tools
from tests.k8s.terraform.folder import TERRAFORM
from tests.k8s.terraform.provider import computed_file

_SECRETS = 'vpn_shared_secrets = ["first", "second"]'
_SOURCES = Path(__file__).with_name("evaluate")


class EvaluationError(Exception):
    """The files cannot be evaluated; the message is what Terraform would say."""


class Resource(msgspec.Struct, frozen=True):
    """One instance of a resource block. `values` are its arguments; a block is a list of objects."""

    address: str
    type: str
    name: str
    key: str | int | None
    file: str
    line: int
    values: dict[str, Any]
    lifecycle: dict[str, str]

    @property
    def where(self) -> str:
        """Place for messages."""
        return f"{Path(self.file).name}:{self.line} {self.address}"


class Variable(msgspec.Struct, frozen=True):
    """A declared variable; `type` is its source text, empty if there is none."""

    description: str
    type: str
    sensitive: bool
    has_default: bool
    value: Any


class Output(msgspec.Struct, frozen=True):
    """A declared output."""

    description: str
    value: Any


class Plan(msgspec.Struct, frozen=True):
    """Everything that one environment comes to.

    Attributes:
        settings: Blocks `terraform` and `provider`.
        references: By address of a block, which variables, locals and resources its expressions name.
    """

    resources: list[Resource]
    variables: dict[str, Variable]
    outputs: dict[str, Output]
    locals: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    references: dict[str, list[str] | None]

    def of_type(self, *types: str) -> list[Resource]:
        """Resources of these types."""
        return [resource for resource in self.resources if resource.type in types]


def evaluate(environment: str, folder: Path = TERRAFORM) -> Plan:
    """Evaluate `folder` with the variables of `envs/<environment>.tfvars` in it.

    Raises:
        EvaluationError: A reference, type, function or condition is wrong.
        tools.ToolError: The evaluator cannot be built.
    """
    variables = folder / "envs" / f"{environment}.tfvars"
    text = _run("-folder", folder, "-variables", variables, "-secrets", _SECRETS, "-computed", computed_file())
    return msgspec.json.decode(text, type=Plan)


@cache
def committed(environment: str) -> Plan:
    """What the committed files come to, evaluated once per process. Do not change it."""
    return evaluate(environment)


def unformatted(folder: Path = TERRAFORM) -> list[str]:
    """Files that `terraform fmt` would change."""
    return msgspec.json.decode(_run("-unformatted", "-folder", folder), type=list[str])


def _run(*arguments: object) -> str:
    done = subprocess.run([_evaluator(), *map(str, arguments)], check=False, capture_output=True, text=True)
    if done.returncode:
        raise EvaluationError(done.stderr.strip())
    return done.stdout


@cache
def _evaluator() -> Path:
    go = shutil.which("go")
    if go is None:
        raise tools.ToolError("the Terraform is evaluated with a Go program: install Go 1.26 or newer")
    sources = sorted(_SOURCES.glob("*.*"))
    version = tools.run([go, "env", "GOVERSION"], name="evaluate", folder=_SOURCES)
    program = tools.cache_folder() / f"evaluate-{tools.digest(version.encode(), *(s.read_bytes() for s in sources))}"
    with tools.locked(program):
        if not program.exists():
            new = program.with_name(f".{program.name}.new")
            tools.run(
                [go, "build", "-p", "1", "-mod=readonly", "-trimpath", "-o", new, "."],
                name="evaluate",
                folder=_SOURCES,
                env={"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"},
            )
            new.rename(program)
    return program
