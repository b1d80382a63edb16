"""Which faults come in which order. Pure: it follows from the seed, and nothing that happens changes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random

from tests.chaos.faults.kinds import KILLS, ONCE, OTHERS

OTHERS_SHARE = 0.6
"""How many other faults come for each kill."""


def schedule(seed: int, rounds: list[int], possible: frozenset[str]) -> list[list[str]]:
    """Kinds of faults for each round.

    Every kind comes about as often as its weight says, and none waits long: the order is that of shuffled decks that
    hold each kind as often as its weight.

    Args:
        seed: Of the campaign.
        rounds: Kills of each round.
        possible: Kinds that may come.
    """
    rng = Random(f"{seed}/schedule")
    kills, others = _deck(rng, KILLS, possible), _deck(rng, OTHERS, possible)
    plan: list[list[str]] = []
    for count in rounds:
        kinds: list[str] = []
        for _ in range(count):
            kinds += _draw(kills)
            if rng.random() < OTHERS_SHARE:
                kinds += _draw(others)
        plan.append(kinds)
    return plan


def _draw(deck: Iterator[str]) -> list[str]:
    """The next kind; none if there is none that may come."""
    kind = next(deck, None)
    return [] if kind is None else [kind]


def _deck(rng: Random, kinds: Mapping[str, tuple[int, object]], possible: frozenset[str]) -> Iterator[str]:
    cards = [name for name, (weight, _) in kinds.items() if name in possible for _ in range(weight)]
    drawn: set[str] = set()
    while cards := [name for name in cards if name not in ONCE or name not in drawn]:
        for name in rng.sample(cards, len(cards)):
            drawn.add(name)
            yield name
