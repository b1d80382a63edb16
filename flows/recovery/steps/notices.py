"""Stateful steps of the notices flow."""

from __future__ import annotations

from datastreamx.config import Config
from datastreamx.place import Place
from flows.recovery.steps import log
from flows.recovery.steps.step import Step, dead_letters, versioned
from operators.notices import outbox


def steps(config: Config, place: Place) -> tuple[Step, ...]:
    """All of them at a place."""
    return (
        *log.steps("notices", config, place),
        versioned("notices.send.outbox", log.partition_keys(config, place), outbox.VERSION),
        dead_letters("notices.dead_letters"),
    )
