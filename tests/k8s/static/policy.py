"""What checkov, kube-score and hadolint object to, and what of it stands with a reason in k8s/policy/exceptions.yaml.

kube-linter is not among them: its module is not to be had through the Go module proxy. kube-score makes most of its
checks, and the contract the others: dangling selectors, accounts that do not exist, ports of probes, secrets in
variables, tokens, what becomes of finished Jobs.

The tools run without any list of their own of what to skip: all that they find is compared with the exceptions, so that
one that explains nothing any more is found, too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from tests.k8s.render import ENVIRONMENTS, K8S
from tests.k8s.static.schemas import VERSIONS
from tests.k8s.tools import tool

EXCEPTIONS = K8S / "policy" / "exceptions.yaml"

Tool = Literal["checkov", "kube-score", "hadolint"]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One objection: `where` is a resource (`StatefulSet/ads`) or a file."""

    tool: Tool
    check: str
    where: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a tool found, and how much it looked at."""

    findings: frozenset[Finding]
    checks: int


class Exemption(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An objection that is answered: why it does not hold here."""

    tool: Tool
    check: str
    where: tuple[str, ...]
    environments: tuple[str, ...] = ENVIRONMENTS
    reason: str

    def findings(self) -> frozenset[Finding]:
        """The objections that it answers."""
        return frozenset(Finding(self.tool, self.check, where) for where in self.where)


def exemptions() -> tuple[Exemption, ...]:
    """Read all that are written down."""
    return msgspec.convert(yaml.safe_load(EXCEPTIONS.read_text(encoding="utf-8")), tuple[Exemption, ...])


def judge(found: frozenset[Finding], answered: Iterable[Exemption]) -> list[str]:
    """What is wrong: objections without an answer, and answers to objections that nobody makes."""
    expected = frozenset[Finding]().union(*(one.findings() for one in answered))
    return [
        *(f"{one.tool} {one.check} at {one.where}: fix it, or give a reason" for one in sorted(found - expected)),
        *(f"{one.tool} {one.check} at {one.where}: no longer found, drop it" for one in sorted(expected - found)),
    ]


def checkov(path: Path, framework: Literal["kubernetes", "dockerfile", "secrets"]) -> Verdict:
    """Run checkov over a file, or over a folder for `secrets`."""
    place: tuple[str | Path, ...] = ("-d", path) if path.is_dir() else ("-f", path)
    said = _json(tool("checkov"), *place, "--framework", framework, "--skip-download", "--compact", "-o", "json")
    if "results" not in said:
        # It has looked and found neither good nor bad.
        return Verdict(frozenset(), 0)
    assert said["summary"]["parsing_errors"] == 0, said["results"]["parsing_errors"]
    # A comment or an annotation has silenced it; the place for that is exceptions.yaml.
    assert said["summary"]["skipped"] == 0, said["results"]["skipped_checks"]
    findings = frozenset(
        Finding("checkov", one["check_id"], _checkov_place(one, framework)) for one in said["results"]["failed_checks"]
    )
    return Verdict(findings, said["summary"]["passed"] + said["summary"]["failed"])


def _checkov_place(found: dict[str, Any], framework: str) -> str:
    if framework == "secrets":
        return str(found["file_path"]).lstrip("/")
    if framework == "dockerfile":
        return "Containerfile"
    kind, _, rest = str(found["resource"]).partition(".")
    return f"{kind}/{rest.removeprefix('datastreamx.').removeprefix('default.')}"


# Optional checks of kube-score that fit. Not among them: requests of CPU that equal its limits.
_OPTIONAL = (
    "container-seccomp-profile",
    "container-ports-check",
    "container-memory-requests-equal-limits",
    "container-ephemeral-storage-request-equals-limit",
)
_PASSED = 10


def kube_score(path: Path) -> Verdict:
    """Run kube-score over a file of manifests."""
    options = [word for name in _OPTIONAL for word in ("--enable-optional-test", name)]
    options += ["--kubernetes-version", f"v{VERSIONS[0].rpartition('.')[0]}", "--disable-ignore-checks-annotations"]
    said = _json(tool("kube-score"), "score", "-o", "json", *options, path)
    checks = [(one["object_name"], check) for one in said for check in one["checks"] or () if not check["skipped"]]
    findings = frozenset(
        Finding("kube-score", check["check"]["id"], _kube_score_place(name))
        for name, check in checks
        if check["grade"] < _PASSED
    )
    return Verdict(findings, len(checks))


def _kube_score_place(name: str) -> str:
    kind, *_, short = name.split("/")
    return f"{kind}/{short}"


def hadolint(path: Path) -> Verdict:
    """Run hadolint over a Containerfile; it looks at every instruction."""
    said = _json(tool("hadolint"), "--disable-ignore-pragma", "--no-fail", "-f", "json", path)
    lines = path.read_text(encoding="utf-8").splitlines()
    instructions = [line for line in lines if line[:1].isalpha()]
    return Verdict(frozenset(Finding("hadolint", one["code"], path.name) for one in said), len(instructions))


def checkov_containerfile(path: Path, scratch: Path) -> Verdict:
    """Run checkov over a Containerfile, which it knows only by its older name."""
    copy = scratch / "Dockerfile"
    shutil.copyfile(path, copy)
    return checkov(copy, "dockerfile")


ON_MANIFESTS: dict[Tool, Callable[[Path], Verdict]] = {
    "checkov": lambda path: checkov(path, "kubernetes"),
    "kube-score": kube_score,
}


def _json(*command: str | Path) -> Any:
    """Run a tool that tells by its status what it tells by its output, too."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise AssertionError(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}") from None
