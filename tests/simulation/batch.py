"""Many histories in one process. Not in `__main__`, which other processes cannot import."""

from __future__ import annotations

from tests.simulation.history import History, Options, Outcome, virtual_time
from tests.simulation.plants import planted


def run_chunk(chunk: tuple[int, int, str | None]) -> list[Outcome]:
    """Histories of the seeds from the first number to before the second, with a planted bug if one is named."""
    first, end, plant = chunk
    with virtual_time() as clock:
        return [History(seed, clock, options_for(plant)).run() for seed in range(first, end)]


def options_for(plant: str | None) -> Options:
    """How histories are run."""
    return planted(plant) if plant else Options()
