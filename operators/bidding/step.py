"""Bytewax shell of the auctions."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream
from prometheus_client import Counter

from datastreamx import metrics
from datastreamx.model.auction import Decision, Opportunity, Outcome
from operators.async_map import AsyncMap, Executor, Journal, async_map


class House(Protocol):
    """Runs auctions; see `operators.bidding.house.AuctionHouse`."""

    def auction(self, opportunity: Opportunity, attempt: int, handed_over_ns: int) -> Coroutine[Any, Any, Decision]:
        """Ask the aggregators and decide."""

    def undecided(self, opportunity: Opportunity, reason: Outcome, attempt: int = 1) -> Decision:
        """Decision about an opportunity for which nobody was asked."""

    def failed(self, opportunity: Opportunity, attempt: int, error: Exception) -> Decision:
        """Decision about an opportunity whose auction raised."""

    def finish(self, decision: Decision, now_ms: int) -> Decision:
        """The decision as it leaves at `now_ms`; without ads if that is too late for a push."""


@dataclass(frozen=True)
class BiddingPorts:
    """What the operator needs from outside.

    Attributes:
        house: Runs the auctions.
        executor: Where it runs them.
        memory: What earlier processes have decided.
    """

    house: House
    executor: Executor[Decision]
    memory: Journal[Opportunity]


@dataclass(frozen=True)
class BiddingOut:
    """Streams out of `bidding`, keyed by key group.

    Attributes:
        decisions: One per opportunity, unless the log already holds it; those of a box in the order of its
            opportunities.
    """

    decisions: KeyedStream[Decision]


def auction_terms(ports: BiddingPorts) -> AsyncMap[Opportunity, Decision]:
    """Auctions as an asynchronous map."""
    house = ports.house

    def settle(opportunity: Opportunity) -> Decision | None:
        return house.undecided(opportunity, Outcome.EXPIRED) if opportunity.expired else None

    def finish(decision: Decision, now_ms: int) -> Decision:
        finished = house.finish(decision, now_ms)
        _count(finished)
        return finished

    return AsyncMap(
        executor=ports.executor,
        fn=house.auction,
        item_type=Opportunity,
        id_of=lambda opportunity: opportunity.auction_id,
        # The house closes its auctions earlier, to leave time for the push. This is for those that never get a turn.
        deadline_of=lambda opportunity: opportunity.deadline_ms,
        on_timeout=lambda opportunity, attempt: house.undecided(opportunity, Outcome.EXPIRED, attempt),
        on_shed=lambda opportunity: house.undecided(opportunity, Outcome.SHED),
        on_error=house.failed,
        settle=settle,
        order_of=lambda opportunity: opportunity.box_id,
        on_emit=finish,
        journal=ports.memory,
        on_recalled=lambda _: metrics.DECISIONS_REUSED.inc(),
    )


# Looking a metric up by its labels costs more than counting does.
_decisions = cache(metrics.DECISIONS.labels)
_latency = cache(metrics.AGGREGATOR_LATENCY.labels)


@cache
def _outcomes(aggregator: str, code: Outcome) -> Counter:
    return metrics.AGGREGATOR_OUTCOMES.labels(aggregator, code.label)


def _count(decision: Decision) -> None:
    _decisions(decision.status).inc()
    if decision.auction_us is not None:
        metrics.AUCTION_LATENCY.observe(decision.auction_us / 1e6)
    for outcome in decision.outcomes:
        _outcomes(outcome.aggregator, outcome.code).inc()
        # An aggregator that was not waited for has not taken that long.
        if outcome.latency_us is not None and outcome.code is not Outcome.CLOSED_EARLY:
            _latency(outcome.aggregator).observe(outcome.latency_us / 1e6)


@operator
def bidding(step_id: str, up: KeyedStream[list[Opportunity]], ports: BiddingPorts) -> BiddingOut:
    """Auction every opportunity once.

    Args:
        step_id: Unique id of the step; running auctions are stored below it.
        up: Opportunities in batches, keyed by key group.
        ports: Auction house, its executor and the decision log.

    Returns:
        Decisions, each keyed by its key group.
    """
    opportunities = op.flat_map_batch(
        "opportunities", up, lambda batches: [(key, opportunity) for key, batch in batches for opportunity in batch]
    )
    return BiddingOut(async_map("auctions", opportunities, auction_terms(ports)))
