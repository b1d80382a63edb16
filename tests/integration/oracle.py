"""What a run without any fault would have led to, computed from the logs alone.

Facts and opportunities follow from box-events by the decoder and the model of viewing, which is not what the flow runs.
Decisions cannot be predicted: the ad-decisions topic says what they were, and everything behind it follows from there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import msgspec
from confluent_kafka import Message

from datastreamx.config import Config
from datastreamx.model import identity
from datastreamx.model.auction import Decision, Opportunity, Outcome
from datastreamx.model.chunk import Chunk
from datastreamx.model.keygroup import KeyGroup, group_of
from datastreamx.tables import BOX_EVENTS, MINUTE_ROLLUPS, TABLES, Row, Table
from datastreamx.wire.decisions import decode_decision
from operators.decisions.rows import decision_row, late_row
from operators.decode.records import decode_chunk
from tests.bid_rows import bid_rows
from tests.operators.model.reading import Viewed, model_of, viewed

T = TypeVar("T")

_SHOWN = 5
"""Differences of one kind that are spelt out."""

Origin = tuple[str, int, int]
"""(topic, partition, offset) of a record."""

POSITION = ("source_partition", "key_group", "source_offset", "ordinal")

Position = tuple[object, ...]
"""(table, source partition, key group, source offset, ordinal) of a fact."""

_BIDS = {"won", "outbid", "below_floor", "currency", "creative_rejected", "advertiser_blocked"}
_ERRORS = {"error", "invalid_response", "unreachable", "oversize"}


@dataclass
class Expected:
    """Everything that follows from box-events.

    Attributes:
        dead_letters: Reason by origin.
        opportunities: By auction id.
        states: State of each key group after its last record, by Bytewax key.
    """

    events: Counter[Row] = field(default_factory=Counter)
    sessions: Counter[Row] = field(default_factory=Counter)
    dead_letters: dict[Origin, str] = field(default_factory=dict)
    opportunities: dict[str, Opportunity] = field(default_factory=dict)
    states: dict[str, Viewed] = field(default_factory=dict)
    late: int = 0
    duplicates: int = 0

    @property
    def positions(self) -> Counter[Position]:
        """Place of every fact, each once."""
        tables = {"box_events": self.events, "viewing_sessions": self.sessions}
        return Counter((name, *row[-len(POSITION) :]) for name, rows in tables.items() for row in rows.elements())


def expect(config: Config, events: Iterable[Message]) -> Expected:
    """Replay the log of box-events, each key group as one chunk: no batching of the flow can be like it."""
    expected = Expected()
    for key_group, messages in sorted(_by_key_group(config, events).items()):
        decoded = decode_chunk(_chunk(key_group, messages), config.topics.events, config.events.max_clock_skew_ms)
        for letter in decoded.dead_letters:
            expected.dead_letters[letter.topic, letter.partition, letter.offset] = letter.reason
        if not decoded.events:
            continue
        state = model_of(config, key_group)
        out = state.process(decoded)
        expected.events.update(out.events)
        expected.sessions.update(out.sessions)
        expected.opportunities.update({one.auction_id: one for one in out.opportunities})
        expected.states[key_group.key] = viewed(state)
        expected.late += out.late
        expected.duplicates += out.duplicates
    return expected


@dataclass
class Decided:
    """What the ad-decisions topic holds: first records with their offsets, and how many records there are of each."""

    firsts: dict[str, tuple[Decision, int]] = field(default_factory=dict)
    copies: Counter[str] = field(default_factory=Counter)

    @property
    def decisions(self) -> list[Decision]:
        return [decision for decision, _ in self.firsts.values()]

    @property
    def repeated(self) -> dict[str, int]:
        """Auctions with more than one record."""
        return {auction_id: count for auction_id, count in self.copies.items() if count > 1}


def decided(messages: Iterable[Message]) -> Decided:
    """Read the ad-decisions topic, given in log order within each partition."""
    found = Decided()
    for message in messages:
        decision = decode_decision(message.value() or b"")
        found.copies[decision.auction_id] += 1
        found.firsts.setdefault(decision.auction_id, (decision, int(message.offset() or 0)))
    return found


def tables_behind(expected: Expected, log: Decided) -> dict[str, Counter[Row]]:
    """Rows of every table but the rollups, whose cut depends on the clock; see `rollup_sums`."""
    return {
        "box_events": expected.events,
        "viewing_sessions": expected.sessions,
        "ad_decisions": Counter(decision_row(decision, offset) for decision, offset in log.firsts.values()),
        "bids": Counter(row for decision, offset in log.firsts.values() for row in bid_rows(decision, offset)),
        "late_bids": Counter(late_rows(log)),
        "impressions": Counter(impressions(expected, log)),
    }


def late_rows(log: Decided) -> list[Row]:
    """Late answers; one that is told again in the same partition, because its auction was re-issued, is left out."""
    rows: dict[tuple[int, str, str], Row] = {}
    # In log order within each partition: which record comes first matters here.
    for decision, offset in sorted(log.firsts.values(), key=lambda first: (first[0].partition, first[1])):
        for late in decision.late:
            place = (decision.partition, late.auction_id, late.aggregator)
            rows.setdefault(place, late_row(late, decision.partition, offset))
    return list(rows.values())


def impressions(expected: Expected, log: Decided) -> list[Row]:
    """Each display joined to its decision; a push may be displayed once."""
    pushes = {ad.push_id: (decision, ad) for decision in log.decisions for ad in decision.ads}
    rows: list[Row] = []
    displayed: set[object] = set()
    for event in expected.events:
        shown = _named(BOX_EVENTS, event)
        if shown["type"] != "ad_shown":
            continue
        if shown["push_id"] not in pushes:
            continue  # It waits for its decision, for longer than a test takes.
        decision, ad = pushes[str(shown["push_id"])]
        assert shown["push_id"] not in displayed, f"{shown['push_id']} was displayed twice: the input is wrong"
        displayed.add(shown["push_id"])
        rows.append(
            (
                *(shown[name] for name in ("event_time", "box_key", "push_id", "ad_id", "shown_ms")),
                True,
                decision.auction_id,
                ad.aggregator,
                ad.price_micros,
                ad.currency,
                decision.channel_id,
                decision.decided_ms * 1000,
                *(shown[name] for name in POSITION),
            )
        )
    return rows


RollupKey = tuple[object, object, object]
"""(minute in microseconds, channel, aggregator)."""

MEASURES = tuple(column.name for column in MINUTE_ROLLUPS.columns[3:])


def rollup_sums(expected: Expected, log: Decided) -> dict[RollupKey, dict[str, int]]:
    """Sum of every measure per minute, channel and aggregator, zeros left out; counted row by row."""
    sums: defaultdict[RollupKey, Counter[str]] = defaultdict(Counter)

    def add(time_us: object, channel_id: object, aggregator: object, **measures: int) -> None:
        assert isinstance(time_us, int)
        sums[time_us - time_us % 60_000_000, channel_id, aggregator].update(measures)

    for row in expected.events:
        event = _named(BOX_EVENTS, row)
        tunes = event["type"] == "tune"
        add(event["event_time"], event["channel_id"], None, events=1, late_events=bool(event["is_late"]), tunes=tunes)
    for decision in log.decisions:
        time_us = decision.decided_ms * 1000
        add(time_us, decision.channel_id, None, opportunities=1)
        for outcome in decision.outcomes:
            add(
                time_us,
                decision.channel_id,
                outcome.aggregator,
                calls=outcome.called,
                bids=outcome.code.label in _BIDS or (outcome.code is Outcome.EXPIRED and outcome.bid_id is not None),
                wins=sum(ad.aggregator == outcome.aggregator for ad in decision.ads),
                timeouts=outcome.code is Outcome.TIMEOUT,
                errors=outcome.called and outcome.code.label in _ERRORS,
            )
    for shown in impressions(expected, log):
        aggregator, price_micros, channel_id = shown[7], shown[8], shown[10]
        assert isinstance(price_micros, int)
        add(shown[0], channel_id, aggregator, impressions=1, revenue_micros=round(price_micros / 1000))
    return {key: {name: n for name, n in counts.items() if n} for key, counts in sums.items()}


def opportunity_of(decision: Decision) -> Opportunity:
    """The context that a decision carries, less what it does not tell."""
    fields = {name: getattr(decision, name) for name in Opportunity.__struct_fields__ if name not in _UNTOLD}
    return Opportunity(**fields)


_UNTOLD = {"expired", "consent"}


@dataclass(frozen=True)
class Evidence:
    """What a run left behind, read by plain clients.

    Attributes:
        tables: Rows with their number, by table.
        states: State of each key group in the recovery store, by Bytewax key.
    """

    config: Config
    events: list[Message]
    decisions: list[Message]
    dead_letters: dict[Origin, str]
    tables: dict[str, Counter[Row]]
    rollups: dict[RollupKey, dict[str, int]]
    states: dict[str, Viewed]


class Kind(StrEnum):
    """What is violated by a difference."""

    LOST = "lost"
    DOUBLED = "doubled"
    DECIDED_TWICE = "decided twice"
    LATE_WIN = "won after its deadline"
    DECISION = "decision"
    DEAD_LETTER = "dead letter"
    STATE = "state"
    ROLLUP = "rollup"


@dataclass(frozen=True)
class Difference:
    """Something in which a run differs from one without faults.

    Attributes:
        text: In words.
        count: Rows, records or keys that it is about.
    """

    kind: Kind
    text: str
    count: int = 1


def differences(evidence: Evidence) -> list[str]:
    """Everything in which a run differs from one without faults, in words; only the first few of each kind."""
    by_kind: defaultdict[Kind, list[str]] = defaultdict(list)
    for one in compare(evidence):
        by_kind[one.kind].append(one.text)
    return [text for texts in by_kind.values() for text in texts[:_SHOWN]]


def compare(evidence: Evidence) -> list[Difference]:
    """Everything in which a run differs from one without faults."""
    expected, log = expect(evidence.config, evidence.events), decided(evidence.decisions)
    return [
        *_table_differences(evidence, expected, log),
        *_set_differences(Kind.ROLLUP, "minute_rollups", evidence.rollups, rollup_sums(expected, log)),
        *_decision_differences(evidence.config, expected, log),
        *_set_differences(Kind.DEAD_LETTER, "dead letters", evidence.dead_letters, expected.dead_letters),
        *_set_differences(Kind.STATE, "states of key groups", evidence.states, expected.states),
        *_sum_differences(evidence, expected),
    ]


def _table_differences(evidence: Evidence, expected: Expected, log: Decided) -> list[Difference]:
    found: list[Difference] = []
    for name, wanted in tables_behind(expected, log).items():
        rows = evidence.tables[name]
        few, many = wanted - rows, rows - wanted
        found += [Difference(Kind.LOST, f"{name}: {n} rows too few like {row}", n) for row, n in few.items()]
        found += [Difference(Kind.DOUBLED, f"{name}: {n} rows too many like {row}", n) for row, n in many.items()]
        keys = Counter(
            tuple(_named(TABLES[name], row)[column] for column in TABLES[name].key) for row in rows.elements()
        )
        # Rows that differ and share a key: their excess is counted above.
        found += [
            Difference(Kind.DOUBLED, f"{name}: {n} rows with the key {key}", 0) for key, n in keys.items() if n > 1
        ]
    return found


def _decision_differences(config: Config, expected: Expected, log: Decided) -> list[Difference]:
    found: list[str] = []
    late: list[Difference] = []
    contexts = {auction_id: opportunity_of(decision) for auction_id, (decision, _) in log.firsts.items()}
    wanted = {
        auction_id: msgspec.structs.replace(opportunity, expired=False, consent=None)
        for auction_id, opportunity in expected.opportunities.items()
    }
    aggregators = sorted(one.name for one in config.aggregators)
    for decision in log.decisions:
        who = f"auction {decision.auction_id}"
        opportunity = expected.opportunities.get(decision.auction_id)
        if bool(decision.ads) != (decision.status == "won"):
            found.append(f"{who} is {decision.status} with {len(decision.ads)} ads")
        pushes = [ad.push_id for ad in decision.ads]
        if pushes != [identity.push_id(decision.auction_id, place) for place in range(len(pushes))]:
            found.append(f"{who} has the pushes {pushes}")
        if decision.push_id != (pushes[0] if pushes else None):
            found.append(f"{who} has the push {decision.push_id}, its ads {pushes}")
        if sum(outcome.ads_won for outcome in decision.outcomes) != len(decision.ads):
            found.append(f"{who} has {len(decision.ads)} ads, its outcomes say otherwise")
        if decision.history_allowed and config.privacy.history == "consented" and not _consented(opportunity):
            found.append(f"{who} let viewing history out without consent")
        if decision.ads and decision.decided_ms > decision.deadline_ms:
            after_ms = decision.decided_ms - decision.deadline_ms
            late.append(Difference(Kind.LATE_WIN, f"{who} was won {after_ms} ms after its deadline"))
        if opportunity is not None and opportunity.expired and decision.status != "expired":
            found.append(f"{who} had expired and is {decision.status}")
        if sorted(outcome.aggregator for outcome in decision.outcomes) != aggregators:
            found.append(f"{who} has outcomes of {[outcome.aggregator for outcome in decision.outcomes]}")
    return [
        *(
            Difference(Kind.DECIDED_TWICE, f"auction {auction_id} has {count} records", count - 1)
            for auction_id, count in log.repeated.items()
        ),
        *_set_differences(Kind.DECISION, "opportunities decided", contexts, wanted),
        *late,
        *(Difference(Kind.DECISION, text) for text in found),
    ]


def _consented(opportunity: Opportunity | None) -> bool:
    return opportunity is not None and opportunity.consent is not None and opportunity.consent.history


def _sum_differences(evidence: Evidence, expected: Expected) -> list[Difference]:
    """Every record has ended somewhere: as a row, as a dead letter or as a known duplicate."""
    rows, letters = evidence.tables["box_events"].total(), len(evidence.dead_letters)
    if rows + letters + expected.duplicates == len(evidence.events):
        return []
    missing = len(evidence.events) - rows - letters - expected.duplicates
    text = f"{len(evidence.events)} records: {rows} rows, {letters} dead letters, {expected.duplicates} duplicates"
    # Which rows these are was counted above.
    return [Difference(Kind.LOST if missing > 0 else Kind.DOUBLED, text, 0)]


def _set_differences(kind: Kind, what: str, found: Mapping[T, object], wanted: Mapping[T, object]) -> list[Difference]:
    wrong = [key for key in wanted.keys() & found.keys() if wanted[key] != found[key]]
    return [
        *(Difference(kind, f"{what}: {key} is missing: {wanted[key]!r}") for key in wanted.keys() - found.keys()),
        *(Difference(kind, f"{what}: {key} is too much: {found[key]!r}") for key in found.keys() - wanted.keys()),
        *(Difference(kind, f"{what}: {key} is {found[key]!r} instead of {wanted[key]!r}") for key in wrong),
    ]


def _by_key_group(config: Config, events: Iterable[Message]) -> dict[KeyGroup, list[Message]]:
    groups: defaultdict[KeyGroup, list[Message]] = defaultdict(list)
    for message in events:
        group = group_of(message.key() or b"", config.events.groups_per_partition)
        groups[KeyGroup(int(message.partition() or 0), group)].append(message)
    return groups


def _chunk(key_group: KeyGroup, messages: list[Message]) -> Chunk:
    return Chunk(
        partition=key_group.partition,
        group=key_group.group,
        offsets=[int(message.offset() or 0) for message in messages],
        timestamps_ms=[message.timestamp()[1] for message in messages],
        keys=[message.key() for message in messages],
        values=[message.value() for message in messages],
    )


def _named(table: Table, row: Row) -> dict[str, object]:
    return {column.name: value for column, value in zip(table.columns, row, strict=True)}
