"""Whether packages of the image have known vulnerabilities: `make audit`, a gate that is never green by mistake.

pip-audit takes a package of which its service knows nothing for one without vulnerabilities, and a service that cannot
be reached through a mirror for one that knows nothing. Here such a package was not checked, and that is no success.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from enum import IntEnum
from pathlib import Path

from packaging.utils import canonicalize_name

from tests.k8s.image.building import ROOT
from tests.k8s.image.locks import read_lock
from tests.k8s.tools import tool

LOCKS = (ROOT / "requirements-run.lock", ROOT / "requirements-build.lock")
ACCEPTED = Path(__file__).with_name("advisories.toml")

SERVICES = (("--vulnerability-service=pypi",), ("--vulnerability-service=osv",))
"""Options of pip-audit that name a service, in the order in which they are asked about what is still not checked."""

_OPTIONS = ("--disable-pip", "--progress-spinner=off", "--format=json", "--desc=off", "--aliases=on", "--timeout=15")


class Exit(IntEnum):
    """Exit codes, those of `datastreamx`."""

    CLEAN = 0
    FOUND = 1
    NOT_CHECKED = 4


@dataclass(frozen=True)
class Finding:
    """One known vulnerability of one package.

    Attributes:
        package: Name and version.
        ids: All names of the advisory.
        fixed: Versions without it.
    """

    package: str
    ids: tuple[str, ...]
    fixed: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """What services said of the packages of locks.

    Attributes:
        packages: All of them.
        checked: Those that a service knew.
        reasons: Why others were not.
        findings: Known vulnerabilities.
    """

    packages: frozenset[str]
    checked: frozenset[str] = frozenset()
    reasons: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def unchecked(self) -> frozenset[str]:
        """Packages that no service knew."""
        return self.packages - self.checked

    def heard(self, text: str) -> Audit:
        """This, and one more answer: the JSON of pip-audit."""
        checked, reasons, findings = set(self.checked), [*self.reasons], [*self.findings]
        for package in json.loads(text)["dependencies"]:
            name = canonicalize_name(package["name"])
            if "skip_reason" in package:
                reasons.append(package["skip_reason"])
            elif name not in checked:
                checked.add(name)
                title = f"{name} {package['version']}"
                findings += [
                    Finding(title, (one["id"], *one.get("aliases", ())), tuple(one["fix_versions"]))
                    for one in package["vulns"]
                ]
        return Audit(self.packages, frozenset(checked), tuple(reasons), tuple(findings))


def audit(
    locks: Sequence[Path] = LOCKS,
    services: Sequence[Sequence[str]] = SERVICES,
    *,
    ask: Callable[[Sequence[str]], str] | None = None,
) -> Audit:
    """Ask about every package of the locks, one service after the other, until all were checked.

    Args:
        locks: Files with hashes.
        services: See `SERVICES`.
        ask: Runs pip-audit with options and returns its standard output, or raises `OSError` with its last words.
    """
    found = Audit(frozenset(name for lock in locks for name in read_lock(lock)))
    for service in services:
        try:
            said = (ask or _pip_audit)([*_OPTIONS, *service, *(f"--requirement={lock}" for lock in locks)])
        except OSError as error:
            found = replace(found, reasons=(*found.reasons, str(error)))
        else:
            found = found.heard(said)
        if not found.unchecked:
            break
    return found


def accepted_ids(text: str, today: date) -> frozenset[str]:
    """Advisories that do not count today, from the text of `advisories.toml`.

    Raises:
        ValueError: An entry lacks its reason or its day.
    """
    ids = set()
    for entry in tomllib.loads(text).get("accepted", ()):
        if entry.keys() != {"id", "reason", "until"} or not entry["reason"] or not isinstance(entry["until"], date):
            raise ValueError(f"an accepted advisory has id, reason and until, a date, and nothing else: {entry}")
        if today <= entry["until"]:
            ids.add(entry["id"])
    return frozenset(ids)


def verdict(found: Audit, accepted: Collection[str]) -> tuple[Exit, str]:
    """What follows, and a text for people."""
    counting = [finding for finding in found.findings if not set(finding.ids) & set(accepted)]
    lines = []
    if found.unchecked:
        lines.append(f"NOT CHECKED for known vulnerabilities: {len(found.unchecked)} of {len(found.packages)} packages")
        lines += [f"  {reason}" for reason in dict.fromkeys((*found.reasons[:1], *found.reasons[-1:]))]
    lines += [
        f"{one.package}: {', '.join(one.ids)}; fixed in {', '.join(one.fixed) or 'no version'}" for one in counting
    ]
    lines.append(f"{len(found.checked)} packages checked, {len(found.findings)} advisories, {len(counting)} count")
    return Exit.FOUND if counting else Exit.NOT_CHECKED if found.unchecked else Exit.CLEAN, "\n".join(lines)


def _pip_audit(options: Sequence[str]) -> str:
    done = subprocess.run([str(tool("pip-audit")), *options], capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        raise OSError((done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1])
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="Look for known vulnerabilities of the image's packages.")
    parser.parse_args()
    accepted = accepted_ids(ACCEPTED.read_text(encoding="utf-8"), datetime.now(UTC).date())
    code, text = verdict(audit(), accepted)
    print(text, file=sys.stderr if code else sys.stdout)
    sys.exit(code)


if __name__ == "__main__":
    main()
