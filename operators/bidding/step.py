"""Bytewax shell of the auctions."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from datastreamx import metrics
from datastreamx.acks import AckedOffsets
from datastreamx.clock import Clock
from datastreamx.errors import CrashError
from datastreamx.model.auction import Decision, Opportunity, Outcome
from datastreamx.model.keygroup import KeyGroup
from operators.bidding.auction import undecided, withdraw
from operators.bidding.house import AuctionHouse, InFlight
from operators.bidding.memory import DecidedMemory
from operators.bidding.snapshot import VERSION, BiddingSnapshot, decode_snapshot, encode_snapshot

_POLL = timedelta(milliseconds=2)
# An idle key group wakes up now and then, so that its snapshot names a recent offset and a restart reads little back.
_IDLE = timedelta(seconds=60)
_DRAIN_POLL_S = 0.002


@dataclass(frozen=True)
class BiddingPorts:
    """What the operator needs from outside.

    Attributes:
        house: Runs the auctions.
        memory: What earlier processes have decided.
        acked: What the broker has acknowledged of this process's decisions.
    """

    house: AuctionHouse
    memory: DecidedMemory
    acked: AckedOffsets
    clock: Clock


@dataclass(frozen=True)
class BiddingOut:
    """Streams out of `bidding`, keyed by key group.

    Attributes:
        decisions: One per opportunity, unless the log already holds it.
    """

    decisions: KeyedStream[Decision]


class BiddingLogic(StatefulBatchLogic[list[Opportunity], Decision, bytes]):
    """Auctions of one key group.

    At every snapshot an opportunity is in exactly one place: input not read yet, `_in_flight`, or output emitted.

    After a restart the input since the last snapshot comes again, and some of its opportunities are decided in the log
    already. `_decided` holds these, by auction id, with the offset whose replay will bring the opportunity back. Until
    that has happened for all, snapshots go on naming the old place in the log: a second crash must find them again.
    """

    def __init__(self, ports: BiddingPorts, snapshot: bytes | None) -> None:
        self._ports = ports
        self._key_group: KeyGroup | None = None
        self._in_flight: dict[str, InFlight] = {}
        self._decided: dict[str, int] = {}
        self._read_from: int | None = None
        if snapshot is not None:
            self._resume(decode_snapshot(snapshot))

    def on_batch(self, values: list[list[Opportunity]]) -> tuple[Iterable[Decision], bool]:
        """Start auctions; what needs none (expired, shed, already decided) is settled at once."""
        opportunities = [opportunity for batch in values for opportunity in batch]
        if self._key_group is None:
            self._key_group = KeyGroup(opportunities[0].partition, opportunities[0].group)
            self._decided = self._ports.memory.decided(self._key_group, None)
        settled: list[Decision] = []
        started: list[InFlight] = []
        for opportunity in opportunities:
            if self._is_decided(opportunity):
                metrics.DECISIONS_REUSED.inc()
            elif opportunity.expired:
                settled.append(self._undecided(opportunity, Outcome.EXPIRED))
            elif not self._ports.house.reserve():
                settled.append(self._undecided(opportunity, Outcome.SHED))
            else:
                started.append(InFlight(opportunity, attempt=1))
        self._start(started)
        self._forget_replayed(opportunities[-1].offset)
        return self._counted(settled), StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[Iterable[Decision], bool]:
        """Emit what was decided meanwhile."""
        return self._counted(self._collect()), StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[Decision], bool]:
        """Wait for running auctions; each ends by its own deadline."""
        decisions = self._collect()
        while self._in_flight:
            time.sleep(_DRAIN_POLL_S)
            decisions += self._collect()
        return self._counted(decisions), StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        """Soon while auctions run, else now and then."""
        return datetime.now(UTC) + (_POLL if self._in_flight else _IDLE)

    def snapshot(self) -> bytes:
        """Versioned bytes of the auctions in flight."""
        if self._key_group is None:
            raise CrashError("a snapshot was asked of auctions that never had an opportunity")
        if not self._decided:
            acked = self._ports.acked.highest(self._key_group.partition)
            self._read_from = acked if acked is not None else self._read_from
        in_flight = list(self._in_flight.values())
        return encode_snapshot(BiddingSnapshot(VERSION, *self._key_group, self._read_from, in_flight))

    def _resume(self, snapshot: BiddingSnapshot) -> None:
        self._key_group = snapshot.key_group
        self._read_from = snapshot.read_from
        self._decided = self._ports.memory.decided(snapshot.key_group, snapshot.read_from)
        again = []
        for auction in snapshot.in_flight:
            if self._is_decided(auction.opportunity):
                metrics.DECISIONS_REUSED.inc()
            else:
                # Beyond capacity if need be: these had their places before the crash.
                self._ports.house.reserve(beyond_capacity=True)
                again.append(InFlight(auction.opportunity, auction.attempt + 1))
        self._start(again)

    def _is_decided(self, opportunity: Opportunity) -> bool:
        return self._decided.pop(opportunity.auction_id, None) is not None

    def _forget_replayed(self, offset: int) -> None:
        """Drop what the replay has passed; it was decided before the last snapshot and does not come again."""
        if self._decided:
            self._decided = {auction: at for auction, at in self._decided.items() if at > offset}

    def _start(self, auctions: list[InFlight]) -> None:
        if self._key_group is None:
            raise CrashError("auctions were started before their key group was known")
        self._in_flight.update((auction.opportunity.auction_id, auction) for auction in auctions)
        self._ports.house.submit(self._key_group.key, auctions)

    def _collect(self) -> list[Decision]:
        if self._key_group is None:
            return []
        decisions = self._ports.house.collect(self._key_group.key)
        now_ms = self._ports.clock.now_ms()
        for decision in decisions:
            del self._in_flight[decision.auction_id]
        return [
            withdraw(decision, now_ms) if decision.winner and now_ms > decision.deadline_ms else decision
            for decision in decisions
        ]

    def _undecided(self, opportunity: Opportunity, reason: Outcome) -> Decision:
        return undecided(opportunity, reason, self._ports.house.aggregators, self._ports.clock.now_ms())

    @staticmethod
    def _counted(decisions: list[Decision]) -> list[Decision]:
        for decision in decisions:
            metrics.DECISIONS.labels(decision.status).inc()
            if decision.auction_us is not None:
                metrics.AUCTION_LATENCY.observe(decision.auction_us / 1e6)
            for outcome in decision.outcomes:
                metrics.AGGREGATOR_OUTCOMES.labels(outcome.aggregator, outcome.code.label).inc()
                if outcome.latency_us is not None:
                    metrics.AGGREGATOR_LATENCY.labels(outcome.aggregator).observe(outcome.latency_us / 1e6)
        return decisions


@operator
def bidding(step_id: str, up: KeyedStream[list[Opportunity]], ports: BiddingPorts) -> BiddingOut:
    """Auction every opportunity once.

    Args:
        step_id: Unique id of the step; running auctions are stored under it.
        up: Opportunities in batches, keyed by key group.
        ports: Auction house, decision log and clock.

    Returns:
        Decisions, each keyed by its key group.
    """
    return BiddingOut(op.stateful_batch("auctions", up, lambda snapshot: BiddingLogic(ports, snapshot)))
