"""Go modules that are wanted for a file in them, and not built: their version and checksum, as go.sum writes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.k8s.tools import ToolError, run, scratch

_MODULES = {
    # The definitions of SecretStore and ExternalSecret.
    "github.com/external-secrets/external-secrets": ("v1.3.2", "h1:u2J8RjlHIeF0oZCqtl92adI/uZWUwOesJIDkfql6LqQ="),
    # The definitions of VolumeSnapshot and VolumeSnapshotClass.
    "github.com/kubernetes-csi/external-snapshotter/client/v8": (
        "v8.7.0",
        "h1:HVaSUeRRHPu49aSiL8eXOjS9Re9G6pM0NzdTGI7mM14=",
    ),
}


def go_module(path: str) -> Path:
    """Fetch the module into Go's own cache, or find it there; returns its folder, which is read-only.

    Raises:
        ToolError: it cannot be had, or it is not what it was when its checksum was written down.
    """
    go = shutil.which("go")
    if go is None:
        raise ToolError(f"{path} is fetched with Go, which is not on PATH: install Go 1.26 or newer")
    version, checksum = _MODULES[path]
    with scratch() as empty:
        found = json.loads(run([go, "mod", "download", "-json", f"{path}@{version}"], name=path, folder=Path(empty)))
    if found["Sum"] != checksum:
        raise ToolError(f"{path}@{version} has the checksum {found['Sum']}, and {checksum} was expected")
    return Path(found["Dir"])
