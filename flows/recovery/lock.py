"""One process per store: two would write snapshots of different runs into the same files."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from datastreamx.lock import exclusive


def locked(store: Path) -> AbstractContextManager[None]:
    """Hold the store for this process; raises what `exclusive` does.

    The lock is a file beside the store, so that it holds while the folder is moved.
    """
    return exclusive(
        store.with_name(f"{store.name}.lock"),
        lambda holder: f"{holder} is using the recovery store {store}: never run two on one store. Stop that one first",
    )
