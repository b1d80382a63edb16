"""A store is used as it is found: nobody looks at its files, and nobody asks the broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datastreamx.clock import Clock
from datastreamx.config import Config
from datastreamx.place import Place
from flows.recovery import opening
from flows.recovery.manifest import manifest_of
from sources.kafka import history
from tests.chaos.planted.patch import patch

PROMISE = "spoilt_stores_used"


def plant() -> None:
    """Take the guard and the witness away."""

    def trust(directory: Path, flow: str, config: Config, place: Place, _clock: Clock) -> None:
        if not directory.exists():
            manifest = manifest_of(flow, config, place)
            opening.make_store(directory, manifest)

    def agree_to_all(*args: Any, **options: Any) -> Any:
        return agree(*args, **{**options, "accept": True})

    patch(opening, "_open", trust)
    agree = patch(history, "agree", agree_to_all)
