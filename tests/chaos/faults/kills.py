"""Processes end, or stand still, at moments of all kinds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from confluent_kafka import Message

from datastreamx.place import place_of
from simulator.bigquery.faults import Fault as BigQueryFault
from simulator.bigquery.faults import FaultPlan, Method
from tests.chaos.crew import CampaignError, Spot, name_of
from tests.chaos.facts import newest
from tests.chaos.faults.fault import Struck
from tests.chaos.rig import CleanStop, Rig
from tests.integration.reading import read_topic

LONGEST_S = 1.2
"""Work between two kills: about three snapshots."""
RESUME_S = 0.6
"""As long as loading the state and connecting take on a busy machine."""
PAUSE_S = (1.0, 8.0)
HANG_IS_NOTICED_WITHIN_S = 60.0
CATCH_UP_S = 2.0

_HELD_WITHIN_S = 6.0
_HELD_AFTER_START_WITHIN_S = 20.0


@dataclass(frozen=True)
class Kill:
    """SIGKILL of a supervisor together with its worker, at any moment."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        spot = rig.crew.pick(rng)
        _let_work(rig, rng, spot)
        return Struck(name_of(spot), _kill(rig, spot))


@dataclass(frozen=True)
class KillWorker:
    """SIGKILL of the worker alone, at any moment; its supervisor starts another."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        spot = rig.crew.pick(rng)
        _let_work(rig, rng, spot)
        met = rig.crew.met(spot)
        rig.crew.kill_worker(spot)
        return Struck(name_of(spot), met)


@dataclass(frozen=True)
class KillAll:
    """SIGKILL of every process of every flow at once, as when a machine goes down."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        spots = rig.crew.spots
        _let_work(rig, rng, rig.crew.pick(rng, "ads"))
        return Struck("every process", _kill(rig, *spots))


@dataclass(frozen=True)
class KillInSnapshot:
    """SIGKILL while a snapshot is written: a file of the store has just changed."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        spot = rig.crew.pick(rng)
        _let_work(rig, rng, spot)
        before = rig.crew.stamp(spot)
        rig.crew.wait(lambda: rig.crew.stamp(spot) != before, LONGEST_S, poll_s=0.001)
        return Struck(name_of(spot), _kill(rig, spot))


@dataclass(frozen=True)
class KillInResume:
    """SIGKILL of what was killed just before and now loads its state."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        crew = rig.crew
        spot = crew.pick(rng)
        _let_work(rig, rng, spot)
        _kill(rig, spot)
        crew.wait(lambda: crew.has_begun(spot), PAUSE_S[1])
        crew.rest(rng.uniform(0, RESUME_S))
        return Struck(name_of(spot), _kill(rig, spot))


@dataclass(frozen=True)
class KillAtBigQuery:
    """SIGKILL of the warehouse flow while BigQuery holds a call: not carried out yet, or done and not answered yet."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        crew, bigquery = rig.crew, rig.servers.bigquery
        method = rng.choice((Method.APPEND_ROWS, Method.APPEND_ROWS, Method.FLUSH_ROWS, Method.CREATE_WRITE_STREAM))
        is_done = rng.random() < 0.5
        rig.weather.end("bigquery")
        crew.await_reading(*crew.of("warehouse"))
        plan = FaultPlan(**{method.value: BigQueryFault(hang=not is_done, hold_ack=is_done)})
        bigquery.inject(plan)
        within_s = _HELD_WITHIN_S
        if method is Method.CREATE_WRITE_STREAM:
            # That is done once after every start.
            _kill(rig, *crew.of("warehouse"))
            within_s = _HELD_AFTER_START_WITHIN_S
        is_held = crew.wait(lambda: bigquery.faults().held[method] > 0, within_s)
        # Meanwhile the flow goes on as far as it may.
        crew.rest(rng.choice((0.0, rng.uniform(0, LONGEST_S))))
        crew.kill(*crew.of("warehouse"))
        bigquery.inject(FaultPlan())
        crew.start(*crew.of("warehouse"))
        moment = "carried out and not answered" if is_done else "not carried out"
        return Struck("warehouse", f"{method} {moment}" if is_held else f"no {method} came")


@dataclass(frozen=True)
class CleanStopping:
    """SIGTERM, which ends with code 0 and a last snapshot: what was written by then is never written again."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        crew = rig.crew
        spot = crew.pick(rng)
        spots = [spot] if rig.options.mode == "cells" else crew.of(spot[0])
        _let_work(rig, rng, *spots)
        crew.resume_all()
        mine = [] if spot[0] != "ads" else _partitions(rig, spot)
        groups = _caught_up(rig, mine, spots) if mine else frozenset()
        met = crew.met(spot)
        if crew.stop(*spots) and groups:
            rig.clean_stops.append(_written(rig, mine, groups))
        crew.start(*spots)
        return Struck(", ".join(map(name_of, spots)), met)


@dataclass(frozen=True)
class Pause:
    """SIGSTOP, and SIGCONT some seconds later, as a machine does that stands still."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        spot = rig.crew.pick(rng)
        seconds = rng.uniform(*PAUSE_S)
        met = rig.crew.met(spot)
        rig.crew.pause(spot)
        rig.weather.begin(name_of(spot), "pause", seconds, lambda: rig.crew.resume(spot))
        return Struck(name_of(spot), f"{seconds:.1f} s{', ' if met else ''}{met}")


@dataclass(frozen=True)
class Hang:
    """SIGSTOP of a worker for good: its supervisor has to notice and start another."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        spot = rig.crew.pick(rng)
        rig.crew.await_reading(spot)
        begin_s, met = time.monotonic(), rig.crew.met(spot)
        pid = rig.crew.hang(spot)
        if not rig.crew.wait(
            lambda: rig.crew.worker(spot) not in {pid, rig.crew.child(spot).pid}, HANG_IS_NOTICED_WITHIN_S
        ):
            raise CampaignError(f"{name_of(spot)} hangs, and within {HANG_IS_NOTICED_WITHIN_S:.0f} s nobody noticed")
        return Struck(name_of(spot), f"replaced after {time.monotonic() - begin_s:.1f} s, {met}")


def _let_work(rig: Rig, rng: Random, *spots: Spot) -> None:
    """Most kills meet a flow at work, some one that has not come so far yet."""
    if rng.random() < 0.8:
        rig.crew.await_reading(*spots)
    rig.crew.rest(rng.uniform(0, LONGEST_S))


def _kill(rig: Rig, *spots: Spot) -> str:
    met = ", ".join(filter(None, (rig.crew.met(spot) for spot in spots)))
    rig.crew.kill(*spots)
    rig.crew.start(*spots)
    return met


def _partitions(rig: Rig, spot: Spot) -> Sequence[int]:
    """Kafka partitions of a process."""
    config = rig.pipeline.config
    return place_of(config, spot[1]).partitions(config.events.partitions)


def _caught_up(rig: Rig, mine: Sequence[int], spots: list[Spot]) -> frozenset[tuple[object, object]]:
    """(partition, key group) that have come past all that killed processes had written: until then they repeat that."""
    if not rig.weather.is_calm("network"):
        return frozenset()
    rig.crew.await_reading(*spots)
    before = newest(_read(rig, rig.pipeline.config.topics.facts), mine)
    rig.crew.rest(CATCH_UP_S)
    now = newest(_read(rig, rig.pipeline.config.topics.facts), mine)
    return frozenset(group for group, offset in before.items() if now[group] > offset)


def _written(rig: Rig, mine: Sequence[int], groups: frozenset[tuple[object, object]]) -> CleanStop:
    """What the stopped process has written so far, by partition."""
    topics = rig.pipeline.config.topics
    counts = [
        Counter(int(one.partition() or 0) for one in _read(rig, topic)) for topic in (topics.facts, topics.decisions)
    ]
    facts, decisions = ({partition: count[partition] for partition in mine} for count in counts)
    return CleanStop(facts, decisions, groups)


def _read(rig: Rig, topic: str) -> list[Message]:
    return read_topic(rig.broker, topic, rig.pipeline.config.events.partitions)
