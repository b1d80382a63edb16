"""A base image where no registry can be reached: Debian's own packages, put together by debootstrap.

It is to the official Python image what the tests need: Debian 12 with the same few packages, `python3.11` on the PATH,
and the means to make a virtual environment. The interpreter is Debian's build of another 3.11.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.k8s.image.podman import PodmanError, podman
from tests.k8s.tools import ToolError, cache_folder, digest, locked, tool

_SUITE = "bookworm"
# The official image's three, and what it makes virtual environments with.
_PACKAGES = ("ca-certificates", "netbase", "tzdata", "python3.11", "python3.11-venv", "python3-distutils")
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def base_image() -> str:
    """Name of the base image, which is made on first use; its archive is kept with the tools.

    Raises:
        ToolError: debootstrap is not installed, or failed.
    """
    key = digest(_SUITE.encode(), *map(str.encode, _PACKAGES))
    name = f"localhost/datastreamx-base:{key}"
    archive = cache_folder().parent / "image" / f"base-{key}.tar.gz"
    with locked(archive):
        if not archive.exists():
            _make(archive)
        if not _exists(name):
            podman("import", "--quiet", f"--change=ENV {_PATH}", archive, name, timeout_s=300)
    return name


def _make(archive: Path) -> None:
    # Not below /tmp, which may be mounted so that no device or program works.
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix="base-") as folder:
        root, new = Path(folder) / "root", Path(folder) / archive.name
        _run([tool("debootstrap"), "--variant=minbase", f"--include={','.join(_PACKAGES)}", _SUITE, root])
        without = [f"--exclude=./{path}" for path in ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*", "dev/*")]
        _run(["tar", "--create", "--gzip", f"--file={new}", f"--directory={root}", *without, "."])
        new.rename(archive)


def _exists(name: str) -> bool:
    try:
        podman("image", "exists", name)
    except PodmanError:
        return False
    return True


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"`{' '.join(map(str, command))}` ended with {done.returncode}:\n{done.stdout[-4000:]}")
