"""What the aggregators say they were told, against what the topics say they were owed. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from datastreamx.model.auction import Decision, Outcome
from datastreamx.model.chunk import DeadLetter
from simulator.aggregators.notices import MAX_NOTICES, Notice
from simulator.aggregators.stats import Stats

PREFIX = "notice_"
"""Of the reasons of their dead letters."""


def owed(decisions: Iterable[Decision], displayed: frozenset[str]) -> Iterator[str]:
    """Ids (auction/event/aggregator/bid) of the notices that follow from what was decided and displayed.

    Args:
        decisions: Every decision, repeats included.
        displayed: Push ids of the displays that found their decision.
    """
    for decision in decisions:
        for outcome in decision.outcomes:
            for bid in outcome.notices:
                event, url = ("win", bid.urls.win) if bid.code is Outcome.WON else ("loss", bid.urls.loss)
                events = [event] if url is not None else []
                if bid.push_id in displayed and bid.urls.billing is not None:
                    events.append("billing")
                yield from (f"{decision.auction_id}/{one}/{outcome.aggregator}/{bid.bid_id}" for one in events)


@dataclass(frozen=True)
class Told:
    """What the aggregators say, by name."""

    stats: Mapping[str, Stats]
    notices: Mapping[str, Sequence[Notice]]


@dataclass(frozen=True)
class NoticeCounts:
    """How the notices ended.

    Attributes:
        accepted: By event, as the aggregators count them.
        repeats: Accepted although accepted before.
        undelivered: Dead letters of notices, by reason.
        missing: Owed, and neither accepted nor a dead letter.
        not_owed: Accepted without being owed.
    """

    accepted: dict[str, int]
    repeats: int
    undelivered: dict[str, int]
    missing: int
    not_owed: int


def count_notices(wanted: Iterable[str], told: Told, letters: Iterable[DeadLetter]) -> NoticeCounts:
    """Compare. What an aggregator has forgotten is not missed: its memory is bounded, and so its word is not final."""
    expected = set(wanted)
    accepted: Counter[str] = Counter()
    for stats in told.stats.values():
        accepted.update(stats.notices)
    heard = {
        f"{one.auction}/{one.event}/{name}/{one.bid}"
        for name, notices in told.notices.items()
        for one in notices
        if one.count
    }
    undelivered = {(one.key or b"").decode(): one.reason for one in letters if one.reason.startswith(PREFIX)}
    is_whole = all(len(notices) < MAX_NOTICES for notices in told.notices.values())
    return NoticeCounts(
        accepted=dict(sorted(accepted.items())),
        repeats=sum(stats.notice_repeats for stats in told.stats.values()),
        undelivered=dict(Counter(undelivered.values())),
        missing=len(expected - heard - undelivered.keys()) if is_whole else 0,
        not_owed=len(heard - expected),
    )
