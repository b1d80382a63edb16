"""What the tests of policies share: contexts by the thousand, and aggregators of known value."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b

import msgspec

from datastreamx.config import SelectionConfig
from datastreamx.model.auction import DecidedOutcome, Outcome
from operators.bidding.selection import Context, Selection, SelectionPolicy
from tests.builders import T0

NAMES = tuple(f"agg{number}" for number in range(8))
SEED = 20_240_601
# A right test fails once in 150,000 times at this many standard deviations.
SIGMAS = 4.5

CONFIGS = {
    "all": SelectionConfig(policy="all"),
    "waterfall": SelectionConfig(policy="waterfall", order=("agg3", "agg1")),
    "weighted": SelectionConfig(policy="weighted", weights={"agg0": 0.5, "agg1": 0.25, "agg2": 0.0}),
    "thompson": SelectionConfig(policy="thompson", calls=2),
}


def context(number: int, channel: str = "ch1") -> Context:
    """Context of one of many auctions; equal numbers are the same auction."""
    return Context(
        auction_id=blake2b(f"{SEED}-{number}".encode(), digest_size=16).hexdigest(),
        channel_id=channel,
        last_channel_id=None,
        last_ad_id=None,
        trigger="dwell",
        opportunity_ms=T0 + number,
        slot_ms=30_000,
    )


class Market(msgspec.Struct, frozen=True):
    """Aggregators that bid now and then.

    Attributes:
        terms: Chance of a bid and mean price in millionths, by aggregator.
    """

    terms: tuple[tuple[float, int], ...]

    def values(self, rng: random.Random) -> list[int]:
        """What a call of each would bring: a price between half and one and a half of the mean, or 0."""
        return [round(price * rng.uniform(0.5, 1.5)) if rng.random() < chance else 0 for chance, price in self.terms]


class Played(msgspec.Struct, frozen=True):
    """One auction: what was chosen, what everybody would have bid, who was called, and what was logged."""

    selection: Selection
    values: tuple[int, ...]
    called: tuple[bool, ...]
    propensities: tuple[float, ...]

    @property
    def revenue(self) -> int:
        """Highest bid seen."""
        return max((value for value, called in zip(self.values, self.called, strict=True) if called), default=0)


def play(
    policy: SelectionPolicy, market_at: Callable[[int], Market], auctions: int, *, seed: int = SEED
) -> Iterator[Played]:
    """Run auctions one after the other; the policy learns from each before the next."""
    rng = random.Random(seed)
    for number in range(auctions):
        values = market_at(number).values(rng)
        selection = policy.select(context(number))
        called = walk(selection, values)
        policy.learn("ch1", outcomes(selection, values, called))
        names = [choice.aggregator for choice in selection.choices]
        bidders = {name for name, value, asked in zip(names, values, called, strict=True) if asked and value}
        yield Played(selection, tuple(values), called, selection.propensities(bidders))


def walk(selection: Selection, values: Sequence[int]) -> tuple[bool, ...]:
    """Who is called: tier after tier, until a tier has bid."""
    called = [False] * len(values)
    for tier in sorted({choice.tier for choice in selection.choices if choice.tier is not None}):
        members = [arm for arm, choice in enumerate(selection.choices) if choice.tier == tier]
        for arm in members:
            called[arm] = True
        if any(values[arm] for arm in members):
            break
    return tuple(called)


def outcomes(selection: Selection, values: Sequence[int], called: Sequence[bool]) -> list[DecidedOutcome]:
    return [
        DecidedOutcome(choice.aggregator, Outcome.OUTBID if value else Outcome.NO_BID, True, value or None)
        if asked
        else DecidedOutcome(choice.aggregator, Outcome.NOT_SELECTED, False)
        for choice, value, asked in zip(selection.choices, values, called, strict=True)
    ]
