"""One supervisor per place: two would start workers that fight for one store, and each overwrite the other's status."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from datastreamx.lock import exclusive

SUFFIX = ".supervisor.lock"


def alone(directory: Path, flow: str, store: str) -> AbstractContextManager[None]:
    """Be the only supervisor of the worker with that store; raises what `exclusive` does.

    It is not the lock of the store, which a worker holds: between two workers that one is free, and a worker whose
    supervisor was killed may keep it for a moment longer.
    """
    return exclusive(
        directory / f"{store}{SUFFIX}",
        lambda holder: (
            f"{holder} already runs the flow {flow} on {directory / store}, and never may two: stop that one first, or "
            "give this one another --ordinal or recovery.directory. `datastreamx status` shows what runs"
        ),
    )
