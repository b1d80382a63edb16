"""The project's Containerfile, built on this machine as it is."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.k8s.image.base import base_image
from tests.k8s.image.podman import build
from tests.k8s.tools import cache_folder, locked

ROOT = Path(__file__).parents[3]
CONTAINERFILE = ROOT / "Containerfile"

# Of pip's settings, those that say where packages are; `cert` is replaced by the path of the secret.
_SETTINGS = {"index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries", "cert"}
_CERTIFICATES = "/run/secrets/ca"


@dataclass(frozen=True)
class Built:
    """An image that was built.

    Attributes:
        name: By which podman knows it.
        version: What it was told of itself.
        revision: Likewise.
        secrets: Texts that were needed to build it and must not be in it.
    """

    name: str
    version: str
    revision: str
    secrets: tuple[str, ...]


def built_image() -> Built:
    """Build the image; unchanged steps come from podman's cache."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    revision = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    name = "localhost/datastreamx:test"
    settings, certificates = _pip_settings()
    with locked(cache_folder().parent / "image" / "build"), tempfile.TemporaryDirectory() as folder:
        pip = Path(folder) / "pip.conf"
        pip.write_text(settings, encoding="utf-8")
        secrets = {"pip": pip} | ({"ca": certificates} if certificates else {})
        arguments = {"BASE": base_image(), "VERSION": version, "REVISION": revision}
        build(CONTAINERFILE, ROOT, tag=name, arguments=arguments, secrets=secrets)
    lines = [line.partition("=")[2].strip() for line in settings.splitlines() if "://" in line]
    return Built(name, version, revision, (*lines, _CERTIFICATES))


def _pip_settings() -> tuple[str, Path | None]:
    """How pip of this machine finds packages, as a configuration file for the build, and its certificates."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings: dict[str, str] = {}
    certificates = None
    # What the environment says comes last, and counts.
    for line in listed.splitlines():
        key, _, quoted = line.partition("=")
        name, value = key.rpartition(".")[2].removeprefix("default-"), quoted.strip("'\"")
        if name == "cert":
            certificates, value = Path(value), _CERTIFICATES
        if name in _SETTINGS:
            settings[name] = value
    return "\n".join(["[global]", *(f"{name} = {value}" for name, value in settings.items()), ""]), certificates
