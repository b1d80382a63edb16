"""A file system of its own for the recovery stores, which can be filled."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_FILLER = "filler"
_CHUNK = bytes(256 * 1024)


@dataclass(frozen=True)
class Disk:
    """A mounted file system."""

    directory: Path

    def fill(self) -> None:
        """Take all the room that there is."""
        with contextlib.suppress(OSError), (self.directory / _FILLER).open("wb", buffering=0) as filler:
            while True:
                if filler.write(_CHUNK) < len(_CHUNK):
                    return

    def free(self) -> None:
        """Give it back."""
        (self.directory / _FILLER).unlink(missing_ok=True)


@contextmanager
def mounted(directory: Path, size: int) -> Iterator[Disk | None]:
    """Mount a file system of `size` bytes in memory; nothing where that is not allowed."""
    directory.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(directory)]
    try:
        is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        is_mounted = False
    if not is_mounted:
        yield None
        return
    try:
        yield Disk(directory)
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)
