"""What a round has left behind, compared with what a run without faults would have: one line for each promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import msgspec
from confluent_kafka import Message

from datastreamx.config import Config
from datastreamx.model.auction import WinningAd
from datastreamx.wire.decisions import decode_decision
from simulator.aggregators.notices import Notice
from simulator.fleet.ledger import Ledger
from tests.chaos.facts import places
from tests.chaos.rig import CleanStop
from tests.integration.kill_audit import owed, wrong_notices
from tests.integration.oracle import Evidence, Kind, compare, decided, expect

SHOWN = 5

PROMISES = {
    "events_lost": "events lost",
    "rows_duplicated": "rows duplicated",
    "rollups_wrong": "rollups wrong",
    "decided_twice": "opportunities decided twice",
    "decisions_wrong": "decisions missing or wrong",
    "late_wins": "wins after their deadline",
    "pushes_duplicated": "pushes duplicated",
    "states_wrong": "wrong box states",
    "dead_letters_wrong": "dead letters lost or too many",
    "notices_repeated": "notices repeated",
    "notices_wrong": "notices lost or wrong",
    "repeated_after_stop": "records repeated after a clean stop",
    "spoilt_stores_used": "spoilt stores used",
    "ended_without_reason": "processes that ended without a reason",
}
"""What must never happen, with the words for it."""

_KINDS = {
    Kind.LOST: "events_lost",
    Kind.DOUBLED: "rows_duplicated",
    Kind.ROLLUP: "rollups_wrong",
    Kind.DECIDED_TWICE: "decided_twice",
    Kind.DECISION: "decisions_wrong",
    Kind.LATE_WIN: "late_wins",
    Kind.STATE: "states_wrong",
    Kind.DEAD_LETTER: "dead_letters_wrong",
}


class Violations(msgspec.Struct):
    """Of one promise.

    Attributes:
        count: Rows, records or keys.
        examples: The first few, in words.
    """

    count: int = 0
    examples: list[str] = msgspec.field(default_factory=list)

    def add(self, text: str, count: int = 1) -> None:
        """One more."""
        self.count += count
        if len(self.examples) < SHOWN:
            self.examples.append(text[:600])


class Verdict(msgspec.Struct):
    """Violations by promise, and what there was to be violated."""

    violations: dict[str, Violations] = msgspec.field(default_factory=lambda: {name: Violations() for name in PROMISES})
    figures: Counter[str] = msgspec.field(default_factory=Counter)

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return not any(one.count or one.examples for one in self.violations.values())

    def add(self, other: Verdict) -> None:
        """Sum up."""
        self.figures.update(other.figures)
        for name, one in other.violations.items():
            self.violations[name].count += one.count
            self.violations[name].examples = (self.violations[name].examples + one.examples)[:SHOWN]


@dataclass(frozen=True)
class Remains:
    """What a round has left behind.

    Attributes:
        evidence: Topics, tables and stores, after a clean stop of all flows.
        facts: All of box-facts.
        ledger: The boxes' own books.
        told: What each aggregator was told of its bids.
        letters: Reasons of the dead letters about notices, by notice.
        clean_stops: What had been written when the ads flow had been stopped cleanly.
        grown: Records that one more clean start and stop has added, by topic.
        used_stores: Spoilt stores that were used.
        unexplained: Ends of processes without a reason.
    """

    evidence: Evidence
    facts: list[Message]
    ledger: Ledger
    told: dict[str, list[Notice]]
    letters: dict[str, set[str]]
    clean_stops: list[CleanStop]
    grown: dict[str, int]
    used_stores: list[str]
    unexplained: list[str]

    @property
    def config(self) -> Config:
        """Of the pipeline."""
        return self.evidence.config

    @cached_property
    def owed(self) -> dict[str, WinningAd | None]:
        """Notices that aggregators are owed."""
        sound = sound_events(self.config, self.evidence.events)
        return owed(self.config, decided(self.evidence.decisions), sound)


def sound_events(config: Config, events: Iterable[Message]) -> list[Message]:
    """Events that are no dead letters: only of these anybody hears."""
    messages = [*events]
    dead = expect(config, messages).dead_letters
    return [one for one in messages if (config.topics.events, one.partition(), one.offset()) not in dead]


def judge(left: Remains) -> Verdict:
    """Compare with a run without faults."""
    verdict = Verdict()
    found = verdict.violations
    for difference in compare(left.evidence):
        found[_KINDS[difference.kind]].add(difference.text, difference.count)
    sent, held = left.ledger.events + left.ledger.expected_dropped, len(left.evidence.events)
    if held < sent:
        found["events_lost"].add(f"the broker has acknowledged {sent} records and holds {held}", sent - held)
    copies = left.ledger.pushes.duplicates
    if copies:
        found["pushes_duplicated"].add(f"boxes have received {copies} pushes more than once", copies)
    for text in wrong_notices(left):
        found["notices_repeated" if "was heard" in text else "notices_wrong"].add(text)
    for text in repeated(left):
        found["repeated_after_stop"].add(text)
    for name, texts in {"spoilt_stores_used": left.used_stores, "ended_without_reason": left.unexplained}.items():
        for text in texts:
            found[name].add(text)
    verdict.figures.update(figures(left))
    return verdict


def repeated(left: Remains) -> Iterable[str]:
    """What was written again although a clean stop had come in between."""
    facts: dict[int, list[set[tuple[object, ...]]]] = {}
    for message in left.facts:
        facts.setdefault(int(message.partition() or 0), []).append(places(message))
    auctions: dict[int, list[set[tuple[object, ...]]]] = {}
    for message in left.evidence.decisions:
        auction_id = decode_decision(message.value() or b"").auction_id
        auctions.setdefault(int(message.partition() or 0), []).append({(auction_id,)})
    for stop in left.clean_stops:
        for partition, mark in stop.facts.items():
            past = [{one for one in record if (one[1], one[2]) in stop.groups} for record in facts.get(partition, [])]
            yield from _repeated("facts", partition, mark, past)
        for partition, mark in stop.decisions.items():
            yield from _repeated("decisions", partition, mark, auctions.get(partition, []))
    for topic, count in left.grown.items():
        if count:
            yield f"{count} records more in {topic} after the flows were stopped cleanly, started and stopped again"


def figures(left: Remains) -> Mapping[str, int]:
    """What there was to lose, double or get wrong."""
    expected, log = expect(left.config, left.evidence.events), decided(left.evidence.decisions)
    return {
        "events": len(left.evidence.events),
        "rows": sum(rows.total() for rows in left.evidence.tables.values()),
        "dead letters": len(left.evidence.dead_letters),
        "duplicates dropped": expected.duplicates,
        "late events": expected.late,
        "opportunities": len(expected.opportunities),
        "wins": sum(bool(decision.ads) for decision in log.decisions),
        "auctions run again": sum(
            max((outcome.attempt for outcome in decision.outcomes), default=1) > 1 for decision in log.decisions
        ),
        "records of facts": len(left.facts),
        "pushes received": left.ledger.pushes.received,
        "pushes too late for the box": left.ledger.pushes.after_deadline,
        "notices owed": len(left.owed),
        "notices heard": sum(bool(notice.count) for notices in left.told.values() for notice in notices),
        "notices given up": len(left.letters),
        "box states": len(expected.states),
    }


def _repeated(what: str, partition: int, mark: int, records: list[set[tuple[object, ...]]]) -> Iterable[str]:
    before = set().union(*records[:mark])
    again = [one for record in records[mark:] for one in record if one in before]
    if again:
        yield f"{len(again)} {what} of partition {partition} written before a clean stop and again after it: {again[0]}"
