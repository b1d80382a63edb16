"""Wall clocks of the flows that can be set.

`libfaketime` would be the usual means. Its release 0.9.10 breaks `clock_nanosleep` with an absolute time when several
threads read the clock, and that is how Python sleeps: nine of ten sleeps failed with EINVAL. So `clock.c` replaces the
reading of the wall clock and nothing else.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock.c")
_NS = 1_000_000_000
_OFFSET_BYTES = 8


def make_clocks(directory: Path) -> Clocks | None:
    """Clocks that are right to begin with; nothing where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / "clock.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(library), str(_SOURCE), "-ldl"], check=True
    )
    return Clocks(library, directory / "offset")


class Clocks:
    """One offset for all processes that are started with `environment`.

    Args:
        library: What `clock.c` was made into.
        path: File that they map.
    """

    def __init__(self, library: Path, path: Path) -> None:
        self._path = path
        self.environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(path)}
        path.write_bytes(bytes(_OFFSET_BYTES))

    def set(self, offset_s: int) -> None:
        """Set the clocks: running processes follow at once."""
        with self._path.open("r+b") as file:
            file.write((offset_s * _NS).to_bytes(_OFFSET_BYTES, "little", signed=True))
