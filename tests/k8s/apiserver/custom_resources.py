"""Definitions of the custom resources that the manifests use, from their projects' Go modules where there are any."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.k8s.render import Resource, parse
from tests.k8s.tools import ToolError

_OURS = Path(__file__).with_name("monitoring.yaml")


@dataclass(frozen=True, slots=True)
class _Module:
    """A Go module that carries definitions; `checksum` is what go.sum would hold of its zip file."""

    path: str
    version: str
    checksum: str
    files: tuple[str, ...]


# Not in a go.mod: only files are wanted, and requiring the modules would choose the versions of what we do build.
_MODULES: Final = (
    _Module(
        "github.com/external-secrets/external-secrets",
        "v1.3.2",
        "h1:u2J8RjlHIeF0oZCqtl92adI/uZWUwOesJIDkfql6LqQ=",
        (
            "config/crds/bases/external-secrets.io_externalsecrets.yaml",
            "config/crds/bases/external-secrets.io_secretstores.yaml",
        ),
    ),
    _Module(
        "github.com/kubernetes-csi/external-snapshotter/client/v8",
        "v8.7.0",
        "h1:HVaSUeRRHPu49aSiL8eXOjS9Re9G6pM0NzdTGI7mM14=",
        (
            "config/crd/snapshot.storage.k8s.io_volumesnapshotclasses.yaml",
            "config/crd/snapshot.storage.k8s.io_volumesnapshotcontents.yaml",
            "config/crd/snapshot.storage.k8s.io_volumesnapshots.yaml",
        ),
    ),
)


@functools.cache
def definitions() -> tuple[Resource, ...]:
    """Read all definitions, fetching the modules once into Go's own cache.

    Raises:
        ToolError: A module cannot be fetched, or is not the one that is pinned.
    """
    texts = [_OURS.read_text()]
    for module in _MODULES:
        folder = _fetched(module)
        texts += [(folder / file).read_text() for file in module.files]
    return tuple(resource for text in texts for resource in parse(text))


def _fetched(module: _Module) -> Path:
    go = shutil.which("go")
    if go is None:
        raise ToolError(f"{module.path} is fetched with Go, which is not on PATH: install Go 1.26 or newer")
    name = f"{module.path}@{module.version}"
    done = subprocess.run(
        [go, "mod", "download", "-json", name],
        cwd="/",
        env={**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off"},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ToolError(f"cannot fetch {name}:\n{done.stdout}{done.stderr}")
    found = json.loads(done.stdout)
    if found["Sum"] != module.checksum:
        raise ToolError(f"{name} is {found['Sum']} and not {module.checksum}, the one that is pinned")
    return Path(found["Dir"])
