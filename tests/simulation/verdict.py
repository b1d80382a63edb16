"""What must hold at the end of every history, whatever was done to the product; computed from the logs alone.

The oracle is the one of the integration tests: the pure parts of the operators, applied to the input without faults.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import msgspec
from confluent_kafka import Message

from datastreamx.model.chunk import DeadLetter
from datastreamx.tables import BOX_EVENTS, MINUTE_ROLLUPS, TABLES, Row
from datastreamx.wire.dead_letters import parse_dead_letter
from datastreamx.wire.decisions import decode_decision
from operators.impressions.join import Display, Impression
from operators.impressions.step import pushes
from operators.notices.notice import Notice, NoticeRules
from tests.integration import oracle
from tests.integration.oracle import MEASURES, Decided, Evidence, Expected, Kind, Origin, RollupKey
from tests.operators.model.box import NEVER_MS
from tests.operators.model.reading import Viewed, viewed_in
from tests.simulation.flows import CONFIG

if TYPE_CHECKING:
    from tests.simulation.history import History

CHARS_MAX = 240

RECORDS = "1 every record ends in a row, a dead letter or a known duplicate"
STATES = "2 final state of each box"
ROWS = "3 visible rows"
DECISIONS = "4 one decision per opportunity, none won after its deadline"
ORDER = "5 order of each box"
NOTICES = "6 notices at most once"
GOES_ON = "the product goes on"


@dataclass
class Findings:
    """What is wrong, by invariant; empty when all is well."""

    by_invariant: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __bool__(self) -> bool:
        return bool(self.by_invariant)

    def add(self, invariant: str, problem: str) -> None:
        self.by_invariant[invariant].append(problem if len(problem) <= CHARS_MAX else f"{problem[:CHARS_MAX]}...")


_INVARIANTS = {
    Kind.LOST: ROWS,
    Kind.DOUBLED: ROWS,
    Kind.ROLLUP: ROWS,
    Kind.DECIDED_TWICE: DECISIONS,
    Kind.LATE_WIN: DECISIONS,
    Kind.DECISION: DECISIONS,
    Kind.DEAD_LETTER: RECORDS,
    Kind.STATE: STATES,
}


def judge(history: History) -> Findings:
    """Compare what is there with what must be there."""
    findings = Findings()
    topics = CONFIG.topics
    events, decisions = history.broker.records(topics.events), _firsts(history.broker.records(topics.decisions))
    letters = [_letter(message) for message in history.broker.records(topics.dead_letters)]
    reasons: dict[Origin, str] = {}
    for letter in letters:
        origin = (letter.topic, letter.partition, letter.offset)
        if not letter.reason.startswith("notice_") and reasons.setdefault(origin, letter.reason) != letter.reason:
            findings.add(RECORDS, f"{origin} is a dead letter for {reasons[origin]} and for {letter.reason}")
    tables = {name: Counter(history.bigquery.visible(name)) for name in TABLES}
    tables["box_events"].update(_refused(letters))
    evidence = Evidence(
        CONFIG,
        events,
        decisions,
        {origin: reason for origin, reason in reasons.items() if reason != "bigquery_row"},
        tables,
        _rollups(tables[MINUTE_ROLLUPS.name]),
        _states(history),
    )
    expected, log = oracle.expect(CONFIG, events), oracle.decided(decisions)
    # It takes a while, and `compare` would ask for it again.
    with patch.object(oracle, "expect", lambda *_: expected):
        for difference in oracle.compare(evidence):
            findings.add(_INVARIANTS[difference.kind], difference.text)
    _judge_copies(findings, history)
    _judge_order(findings, decisions)
    if "notices" in history.flows:
        _judge_notices(findings, history, letters, _notices(expected, log))
    _count(history, expected, log)
    return findings


def _letter(message: Message) -> DeadLetter:
    headers = cast("list[tuple[str, bytes]]", message.headers() or [])
    return parse_dead_letter(message.key(), message.value(), headers)


def _refused(letters: list[DeadLetter]) -> list[Row]:
    """Rows that BigQuery has refused: set aside they count as arrived, once."""
    rows = {
        (letter.partition, letter.offset): tuple(msgspec.json.decode(letter.value or b"")["row"].values())
        for letter in letters
        if letter.reason == "bigquery_row"
    }
    return list(rows.values())


def _firsts(decisions: list[Message]) -> list[Message]:
    """The first record of each auction, which counts everywhere.

    Copies come from requests that were under way when their process died, and arrived after its successor had read the
    log back.
    """
    firsts: dict[str, Message] = {}
    for message in decisions:
        firsts.setdefault(decode_decision(message.value() or b"").auction_id, message)
    return list(firsts.values())


def _states(history: History) -> dict[str, Viewed]:
    """States of all key groups but those that have seen nothing but dead letters; the oracle knows none of them."""
    states = {
        key: viewed_in(value, CONFIG)
        for cell in history.cells
        for (step_id, key), value in cell.store.values.items()
        if step_id == "ads.viewing.state"
    }
    return {key: state for key, state in states.items() if state.watermark_ms != NEVER_MS}


def _rollups(rows: Counter[Row]) -> dict[RollupKey, dict[str, int]]:
    sums: defaultdict[RollupKey, Counter[str]] = defaultdict(Counter)
    for row, count in rows.items():
        for measure, value in zip(MEASURES, row[3:], strict=True):
            sums[row[0], row[1], row[2]][measure] += int(str(value)) * count
    return {key: {name: n for name, n in counts.items() if n} for key, counts in sums.items()}


def _judge_copies(findings: Findings, history: History) -> None:
    """A second record of an auction is nobody's fault only if its writer could not know of the first.

    That is if the first arrived after the writer had started, and read the log back, or if the writer's client failed
    and everything without an answer had to be sent again.
    """
    for (topic, partition), origins in history.broker.origins.items():
        if topic != CONFIG.topics.decisions:
            continue
        firsts: dict[str, int] = {}
        for message, writer in zip(history.broker.logs[topic, partition], origins, strict=True):
            auction_id, offset = decode_decision(message.value() or b"").auction_id, int(message.offset() or 0)
            first = firsts.setdefault(auction_id, offset)
            if first == offset:
                continue
            history.world.seen["second records of an auction"] += 1
            same = origins[first] is writer
            if same and writer is not None and not writer.has_failed:
                findings.add(DECISIONS, f"auction {auction_id} was decided twice by one process")
            elif not same and writer is not None and first < writer.log_at_start[topic, partition]:
                findings.add(DECISIONS, f"auction {auction_id} was decided again although the log told of it")


def _judge_order(findings: Findings, decisions: list[Message]) -> None:
    """Decisions of a box stand in the order of what caused them."""
    latest: dict[str, int] = {}
    for decision in (decode_decision(message.value() or b"") for message in decisions):
        if decision.offset < latest.get(decision.box_id, -1):
            findings.add(ORDER, f"auction {decision.auction_id} of offset {decision.offset} comes too late")
        latest[decision.box_id] = decision.offset


def _judge_notices(findings: Findings, history: History, letters: list[DeadLetter], owed: list[Notice]) -> None:
    ended: defaultdict[str, set[str]] = defaultdict(set)
    for letter in letters:
        if letter.reason.startswith("notice_"):
            ended[(letter.key or b"").decode()].add(letter.reason)
    heard, wanted = history.receivers.heard, {notice.id for notice in owed}
    for notice_id, count in heard.items():
        if count > 1:
            findings.add(NOTICES, f"{notice_id} was heard {count} times")
        if notice_id not in wanted:
            findings.add(NOTICES, f"{notice_id} was heard and follows from nothing")
        if "notice_failed" in ended[notice_id]:
            findings.add(NOTICES, f"{notice_id} was heard, and is said to have failed for sure")
    for notice in owed:
        if not heard[notice.id] and not ended[notice.id]:
            findings.add(NOTICES, f"{notice.id} was neither heard nor set aside")


def _notices(expected: Expected, log: Decided) -> list[Notice]:
    """All that is owed."""
    rules = NoticeRules(CONFIG.aggregators)
    found = [notice for decision in log.decisions for notice in rules.of_decision(decision)]
    owed = {push_id: push for decision in log.decisions for push_id, push in pushes(decision, with_billing=True)}
    names = [column.name for column in BOX_EVENTS.columns]
    for row in expected.events:
        shown = dict(zip(names, row, strict=True))
        push = owed.get(str(shown["push_id"]))
        if shown["type"] == "ad_shown" and push is not None:
            notice = rules.of_impression(Impression(_display(shown), push))
            found += [notice] if notice is not None else []
    return found


def _display(shown: Mapping[str, Any]) -> Display:
    shown_time_ms = shown["event_time"] // 1000
    return Display(shown_time_ms, *(shown[name] for name in Display.__struct_fields__[1:5]), *_position(shown))


def _position(shown: Mapping[str, Any]) -> list[Any]:
    return [shown[name] for name in oracle.POSITION]


def _count(history: History, expected: Expected, log: Decided) -> None:
    """What kind of history it was."""
    seen = history.world.seen
    seen["records"] += len(history.broker.records(CONFIG.topics.events))
    seen["late events"] += expected.late
    seen["duplicate events"] += expected.duplicates
    seen["dead letters"] += len(expected.dead_letters)
    seen["opportunities"] += len(expected.opportunities)
    seen["sessions"] += expected.sessions.total()
    for decision in log.decisions:
        seen[f"decisions: {decision.status}"] += 1
        seen["late bids"] += len(decision.late)
        seen["auctions issued again"] += any(outcome.attempt > 1 for outcome in decision.outcomes)
    seen["notices heard"] += len(history.receivers.heard)
    seen["streams"] += len(history.bigquery.streams)
