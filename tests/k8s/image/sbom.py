"""What the image is made of, as a CycloneDX 1.6 bill of materials: `make sbom`.

cyclonedx-py tells name, version, licence and dependencies from what is installed here. Of that we keep what the
image's lock fixes, and add the hashes of the lock, which an installation no longer knows. With an image, its Debian
packages and its interpreter are listed, too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.utils import canonicalize_name

from tests.k8s.image.building import ROOT
from tests.k8s.image.locks import Locked, read_lock
from tests.k8s.image.podman import once
from tests.k8s.tools import scratch, tool

Bill = dict[str, Any]
"""A document of CycloneDX, as JSON has it."""

LOCK = ROOT / "requirements-run.lock"

# Of those that name their licence only in a text, read there.
_CONCLUDED = {"bytewax": "Apache-2.0", "google-cloud-bigquery": "Apache-2.0", "protobuf": "BSD-3-Clause"}

_VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
sys.exit(None if error is None else str(error))
"""
_DEBIAN = r"${Package}\t${Version}\t${Architecture}\n"
_PYTHON = "import platform; print(platform.python_version())"


class SbomError(Exception):
    """No true bill can be written; the message says why, and what to do."""


def bill_of_materials(image: str | None = None) -> Bill:
    """List what runs in production.

    Args:
        image: Whose Debian packages and interpreter are to be listed.

    Raises:
        SbomError: What is installed here is not what the lock says, or the image does not answer.
        ToolError: cyclonedx-py cannot be had.
    """
    bill = of_lock(_installed(), read_lock(LOCK))
    if image is not None:
        bill["components"] += below(image)
    return bill


def of_lock(installed: Bill, lock: dict[str, Locked]) -> Bill:
    """Of a bill of all that is installed, what the lock fixes, with its hashes.

    Raises:
        SbomError: Another version is installed than the lock says, or none.
    """
    components: dict[str, Bill] = {canonicalize_name(one["name"]): one for one in installed["components"]}
    here = {name: component["version"] for name, component in components.items() if name in lock}
    locked = {name: entry.version for name, entry in lock.items()}
    if here != locked:
        wrong = sorted(name for name, version in locked.items() if here.get(name) != version)
        raise SbomError(
            f"installed is another version than {LOCK.name} says, or none, of {', '.join(wrong)}: run `make`"
        )
    kept = [_licensed(name, _with_hashes(components[name], entry)) for name, entry in sorted(lock.items())]
    references = {component["bom-ref"] for component in kept} | {installed["metadata"]["component"]["bom-ref"]}
    dependencies = [
        {"ref": one["ref"], "dependsOn": [other for other in one.get("dependsOn", ()) if other in references]}
        for one in installed["dependencies"]
        if one["ref"] in references
    ]
    return {**installed, "components": kept, "dependencies": dependencies}


def problem_of(bill: Bill) -> str | None:
    """What the schema of CycloneDX 1.6 has against a bill; `None`: nothing."""
    python = tool("cyclonedx-py").with_name("python")
    done = subprocess.run(
        [str(python), "-c", _VALIDATE], input=json.dumps(bill), capture_output=True, text=True, check=False
    )
    return done.stderr.strip() or None if done.returncode else None


def _installed() -> Bill:
    with scratch() as folder:
        path = Path(folder) / "bill.json"
        command = [tool("cyclonedx-py"), "environment", "--pyproject", ROOT / "pyproject.toml", "--sv", "1.6"]
        # Checked in the end, which takes long enough.
        command += [
            "--no-validate",
            "--output-reproducible",
            "--output-format",
            "JSON",
            "--output-file",
            path,
            sys.executable,
        ]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SbomError(f"cyclonedx-py ended with {done.returncode}:\n{done.stderr[-4000:]}")
        found: Bill = json.loads(path.read_bytes())
        return found


def _with_hashes(component: Bill, entry: Locked) -> Bill:
    reference = {
        "type": "distribution",
        "url": component["purl"],
        "comment": "files of which one is installed, by platform",
        "hashes": [{"alg": "SHA-256", "content": one} for one in sorted(entry.hashes)],
    }
    return {**component, "externalReferences": [reference, *component.get("externalReferences", ())]}


def _licensed(name: str, component: Bill) -> Bill:
    if component.get("licenses") or name not in _CONCLUDED:
        return component
    return {**component, "licenses": [{"license": {"id": _CONCLUDED[name], "acknowledgement": "concluded"}}]}


def below(image: str) -> list[Bill]:
    """Interpreter and Debian packages of an image.

    Raises:
        SbomError: It does not answer.
    """
    python = _said(image, "python", "-c", _PYTHON).strip()
    found = [_component("platform", "CPython", python, f"pkg:generic/python@{python}")]
    for line in _said(image, "dpkg-query", "--show", f"--showformat={_DEBIAN}").splitlines():
        name, version, architecture = line.split("\t")
        address = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}&distro=debian-12"
        found.append(_component("library", name, version, address))
    return found


def _component(kind: str, name: str, version: str, address: str) -> Bill:
    return {"type": kind, "bom-ref": address, "name": name, "version": version, "purl": address}


def _said(image: str, program: str, *arguments: str) -> str:
    done = once(image, *arguments, options=[f"--entrypoint={program}"])
    if done.returncode:
        raise SbomError(f"{program} in {image} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a CycloneDX bill of materials of the image.")
    parser.add_argument("--image", help="list its Debian packages, too; needs podman and root")
    parser.add_argument("--output", type=Path, default=ROOT / "build/sbom.cdx.json")
    options = parser.parse_args()
    try:
        bill = bill_of_materials(options.image)
        problem = problem_of(bill)
    except SbomError as error:
        sys.exit(f"error: {error}")
    if problem is not None:
        sys.exit(f"error: the bill is not valid: {problem}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(bill, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{options.output}: {len(bill['components'])} components")  # noqa: T201  a command


if __name__ == "__main__":
    main()
