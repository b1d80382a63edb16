"""Stateful steps by flow. Each flow loads only what it needs itself, and is back the sooner after a crash."""

from __future__ import annotations

from collections.abc import Callable

from datastreamx.config import Config
from datastreamx.place import Place
from flows.recovery.steps.step import Step


def steps_of(flow: str, config: Config, place: Place) -> tuple[Step, ...]:
    """Stateful steps of `ads`, `warehouse` or `notices` at a place."""
    return _STEPS[flow](config, place)


def _ads(config: Config, place: Place) -> tuple[Step, ...]:
    from flows.recovery.steps.ads import steps  # noqa: PLC0415 - see above

    return steps(config, place)


def _warehouse(config: Config, place: Place) -> tuple[Step, ...]:
    from flows.recovery.steps.warehouse import steps  # noqa: PLC0415 - see above

    return steps(config, place)


def _notices(config: Config, place: Place) -> tuple[Step, ...]:
    from flows.recovery.steps.notices import steps  # noqa: PLC0415 - see above

    return steps(config, place)


_STEPS: dict[str, Callable[[Config, Place], tuple[Step, ...]]] = {
    "ads": _ads,
    "warehouse": _warehouse,
    "notices": _notices,
}

FLOWS = tuple(_STEPS)
"""Flows that keep a store."""
