"""The audit: what the fleet's own books say against what BigQuery and the topics hold.

Nothing here asks the flows: a flow that loses a row would not count it either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from google.cloud import bigquery

from datastreamx.cli.demo.notices import PREFIX, NoticeCounts, Told, count_notices, owed
from datastreamx.config import Config
from datastreamx.errors import RetryableError
from datastreamx.kafka import consumer_properties
from datastreamx.model.auction import Decision
from datastreamx.model.chunk import DeadLetter
from datastreamx.tables import TABLES
from datastreamx.wire.dead_letters import parse_dead_letter
from datastreamx.wire.decisions import decode_decision
from simulator.fleet.ledger import Ledger

_READ_TIMEOUT_S = 30.0
_POLL_S = 0.5
_BATCH = 5_000


@dataclass(frozen=True)
class TopicCounts:
    """What the topics hold.

    Attributes:
        decisions: Records of ad-decisions.
        auctions: Distinct auctions among them.
        pushes: Ads in these records; every ad of a break is a push of its own.
        distinct_pushes: Distinct push ids among these.
        decided_late: Ads that were decided after their deadline.
        dead_letters: Distinct origins of dead letters, by reason; those of notices are counted apart.
    """

    decisions: int
    auctions: int
    pushes: int
    distinct_pushes: int
    decided_late: int
    dead_letters: dict[str, int]


class Warehouse:
    """Questions to BigQuery; every query filters the partition column, as analysts' queries must."""

    def __init__(self, client: bigquery.Client, config: Config) -> None:
        self._client = client
        self._dataset = f"`{config.bigquery.project}.{config.bigquery.dataset}`"

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a query, in which `{t}` stands for the dataset."""
        return [dict(row.items()) for row in self._client.query(sql.replace("{t}", self._dataset)).result()]

    def one(self, sql: str) -> dict[str, Any]:
        """The only row of a query."""
        (row,) = self.rows(sql)
        return row

    def counts(self) -> dict[str, int]:
        """Rows per table."""
        return {
            name: self.one(f"SELECT COUNT(*) AS n FROM {{t}}.{name} WHERE {_recent(table.partition_by)}")["n"]
            for name, table in TABLES.items()
        }

    def duplicates(self) -> dict[str, int]:
        """Rows beyond the first per key, per table that has a key."""
        found = {}
        for name, table in TABLES.items():
            if table.key:
                columns = ", ".join(table.key)
                found[name] = self.one(
                    f"SELECT IFNULL(SUM(n - 1), 0) AS n FROM (SELECT COUNT(*) AS n FROM {{t}}.{name} "
                    f"WHERE {_recent(table.partition_by)} GROUP BY {columns})"
                )["n"]
        return {name: int(count) for name, count in found.items()}

    def events(self) -> dict[str, int]:
        """Rows, distinct events and late ones in box_events."""
        return self.one(
            "SELECT COUNT(*) AS total, COUNT(DISTINCT CONCAT(box_key, '/', event_id)) AS distinct_events, "
            f"COUNTIF(is_late) AS late FROM {{t}}.box_events WHERE {_recent('event_time')}"
        )

    def auctions(self) -> dict[str, int]:
        """Rows of ad_decisions by status."""
        rows = self.rows(
            f"SELECT status, COUNT(*) AS n FROM {{t}}.ad_decisions WHERE {_recent('decided_time')} GROUP BY 1"
        )
        return {row["status"]: row["n"] for row in rows}

    def ads(self) -> int:
        """Ads in ad_decisions, those of breaks included."""
        row = self.one(f"SELECT IFNULL(SUM(ads), 0) AS n FROM {{t}}.ad_decisions WHERE {_recent('decided_time')}")
        return int(row["n"])

    def outcomes(self) -> dict[str, dict[str, int]]:
        """Rows of bids by aggregator and outcome."""
        rows = self.rows(
            f"SELECT aggregator, outcome, COUNT(*) AS n FROM {{t}}.bids WHERE {_recent('decided_time')} "
            "GROUP BY 1, 2 ORDER BY 1, 2"
        )
        found: dict[str, dict[str, int]] = {}
        for row in rows:
            found.setdefault(row["aggregator"], {})[row["outcome"]] = row["n"]
        return found

    def auction_latency_ms(self) -> dict[str, float | None]:
        """Percentiles of the time in which aggregators were asked."""
        row = self.one(
            "SELECT APPROX_QUANTILES(auction_us, 100)[OFFSET(50)] AS p50, "
            "APPROX_QUANTILES(auction_us, 100)[OFFSET(99)] AS p99 "
            f"FROM {{t}}.ad_decisions WHERE {_recent('decided_time')} AND auction_us IS NOT NULL"
        )
        return {name: None if value is None else round(value / 1000, 1) for name, value in row.items()}

    def flow_latency_ms(self) -> dict[str, float | None]:
        """Percentiles from the Kafka time of the causing event to the decision, without the aggregators' part."""
        own_ms = "UNIX_MILLIS(decided_time) - UNIX_MILLIS(emitted_time) - auction_us / 1000"
        row = self.one(
            f"SELECT APPROX_QUANTILES({own_ms}, 100)[OFFSET(50)] AS p50, "
            f"APPROX_QUANTILES({own_ms}, 100)[OFFSET(99)] AS p99 "
            f"FROM {{t}}.ad_decisions WHERE {_recent('decided_time')} AND auction_us IS NOT NULL"
        )
        return {name: None if value is None else round(value, 1) for name, value in row.items()}

    def newest_event_ms(self) -> int | None:
        """Kafka time of the newest queryable event, milliseconds since the epoch."""
        row = self.one(
            f"SELECT UNIX_MILLIS(MAX(received_time)) AS newest FROM {{t}}.box_events WHERE {_recent('event_time')}"
        )
        newest: int | None = row["newest"]
        return newest

    def impressions(self) -> dict[str, int]:
        """Rows of impressions, and those that found their decision."""
        return self.one(
            "SELECT COUNT(*) AS total, COUNTIF(is_matched) AS matched "
            f"FROM {{t}}.impressions WHERE {_recent('shown_time')}"
        )

    def displayed(self) -> frozenset[str]:
        """Push ids of the impressions that found their decision."""
        rows = self.rows(f"SELECT DISTINCT push_id FROM {{t}}.impressions WHERE {_recent('shown_time')} AND is_matched")
        return frozenset(row["push_id"] for row in rows)


def _recent(column: str) -> str:
    return f"{column} >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 1 DAY)"


def read_topics(config: Config) -> tuple[list[Decision], list[DeadLetter]]:
    """Read ad-decisions and dead-letters from beginning to end."""
    decisions = [
        decode_decision(message.value())
        for message in _read_all(config, config.topics.decisions, config.events.partitions)
    ]
    dead_letters = [
        parse_dead_letter(message.key(), message.value(), message.headers() or [])
        for message in _read_all(config, config.topics.dead_letters, 1)
    ]
    return decisions, dead_letters


def count_topics(decisions: Iterable[Decision], dead_letters: Iterable[DeadLetter]) -> TopicCounts:
    """Count what was read. Pure."""
    auctions: Counter[str] = Counter()
    pushes: Counter[str] = Counter()
    late = 0
    for decision in decisions:
        auctions[decision.auction_id] += 1
        pushes.update(ad.push_id for ad in decision.ads)
        late += len(decision.ads) if decision.decided_ms > decision.deadline_ms else 0
    reasons = {
        (letter.topic, letter.partition, letter.offset): letter.reason
        for letter in dead_letters
        if not letter.reason.startswith(PREFIX)
    }
    return TopicCounts(
        decisions=auctions.total(),
        auctions=len(auctions),
        pushes=pushes.total(),
        distinct_pushes=len(pushes),
        decided_late=late,
        dead_letters=dict(Counter(reasons.values())),
    )


def _read_all(config: Config, topic: str, partitions: int) -> list[Any]:
    """All records of a topic, up to the end of each partition as the broker reports it while reading."""
    consumer = Consumer(consumer_properties(config.kafka, "demo-audit", "datastreamx-demo-audit"))
    records: list[Any] = []
    open_partitions = set(range(partitions))
    waited_s = 0.0
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in open_partitions])
        while open_partitions and waited_s < _READ_TIMEOUT_S:
            messages = consumer.consume(_BATCH, _POLL_S)
            waited_s = 0.0 if messages else waited_s + _POLL_S
            for message in messages:
                error = message.error()
                if error is None:
                    records.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's public name for it
                    open_partitions.discard(message.partition())
    finally:
        consumer.close()
    if open_partitions:
        raise RetryableError(f"topic {topic}: the end of partitions {sorted(open_partitions)} was not reached")
    return records


class Summary(msgspec.Struct, frozen=True):
    """What the demo prints at its end; field names are an interface."""

    events: dict[str, int]
    auctions: dict[str, int]
    pushes: dict[str, int]
    aggregators: dict[str, dict[str, int]]
    notices: dict[str, int]
    latency_ms: dict[str, dict[str, float | None]]
    bigquery: dict[str, Any]
    first_s: dict[str, float]
    restarts: dict[str, int]
    violations: list[str]


@dataclass(frozen=True)
class Evidence:
    """Everything that the audit rests on, from independent ends."""

    ledger: Ledger
    topics: TopicCounts
    tables: dict[str, int]
    duplicates: dict[str, int]
    events: dict[str, int]
    auctions: dict[str, int]
    ads: int
    outcomes: dict[str, dict[str, int]]
    notices: NoticeCounts
    auction_latency_ms: dict[str, float | None]
    flow_latency_ms: dict[str, float | None]
    impressions: dict[str, int]
    row_ages_s: list[float]
    first_s: dict[str, float]
    aggregators: tuple[str, ...]
    restarts: dict[str, int]


def gather(  # noqa: PLR0913, PLR0917 - what the demo has noted on the way
    warehouse: Warehouse,
    config: Config,
    ledger: Ledger,
    told: Told,
    row_ages_s: list[float],
    first_s: dict[str, float],
    restarts: dict[str, int],
) -> Evidence:
    """Ask BigQuery and the topics."""
    decisions, dead_letters = read_topics(config)
    return Evidence(
        ledger=ledger,
        topics=count_topics(decisions, dead_letters),
        tables=warehouse.counts(),
        duplicates=warehouse.duplicates(),
        events=warehouse.events(),
        auctions=warehouse.auctions(),
        ads=warehouse.ads(),
        outcomes=warehouse.outcomes(),
        notices=count_notices(owed(decisions, warehouse.displayed()), told, dead_letters),
        auction_latency_ms=warehouse.auction_latency_ms(),
        flow_latency_ms=warehouse.flow_latency_ms(),
        impressions=warehouse.impressions(),
        row_ages_s=row_ages_s,
        first_s=first_s,
        aggregators=tuple(aggregator.name for aggregator in config.aggregators),
        restarts=restarts,
    )


def summarize(evidence: Evidence) -> Summary:
    """Compare and judge. Pure."""
    ledger, topics = evidence.ledger, evidence.topics
    produced = ledger.expected_rows
    lost = produced - evidence.events["distinct_events"]
    push, bare = ledger.event_to_push_ms, ledger.event_to_push_without_auction_ms
    return Summary(
        events={
            "produced": produced,
            "in_bigquery": evidence.events["total"],
            "lost": lost,
            "duplicated": evidence.events["total"] - evidence.events["distinct_events"],
            "late": evidence.events["late"],
            "dead_letters": sum(topics.dead_letters.values()),
        },
        auctions={
            "opportunities": topics.auctions,
            "decided": sum(evidence.auctions.values()),
            **{status: evidence.auctions.get(status, 0) for status in ("won", "no_bid", "expired", "shed")},
        },
        pushes={
            "sent": topics.distinct_pushes,
            "duplicated": topics.pushes - topics.distinct_pushes,
            "after_deadline": ledger.pushes.after_deadline + topics.decided_late,
            "shown": evidence.impressions["total"],
        },
        aggregators=evidence.outcomes,
        notices={
            **{event: evidence.notices.accepted.get(event, 0) for event in ("win", "loss", "billing")},
            "repeated": evidence.notices.repeats,
            **{reason.removeprefix(PREFIX): count for reason, count in sorted(evidence.notices.undelivered.items())},
        },
        latency_ms={
            "event_to_push": {"p50": push.p50_ms, "p99": push.p99_ms},
            "event_to_push_without_aggregators": {"p50": bare.p50_ms, "p99": bare.p99_ms},
            "event_to_decision_without_aggregators": evidence.flow_latency_ms,
            "auction": evidence.auction_latency_ms,
        },
        bigquery={
            "row_age_s": {"p50": percentile(evidence.row_ages_s, 50), "p99": percentile(evidence.row_ages_s, 99)},
            "tables": evidence.tables,
        },
        first_s=evidence.first_s,
        restarts=evidence.restarts,
        violations=violations(evidence),
    )


def violations(evidence: Evidence) -> list[str]:
    """Every broken promise, in words; empty when all hold."""
    ledger, topics = evidence.ledger, evidence.topics
    expected_dead = dict(sorted(ledger.expected_dead_letters.items()))
    checks = [
        (ledger.finished, "the fleet did not finish: its books are not final"),
        (ledger.expected_rows > 0, "the fleet produced nothing"),
        (
            evidence.events["distinct_events"] == ledger.expected_rows,
            f"events: {ledger.expected_rows} expected, {evidence.events['distinct_events']} in BigQuery",
        ),
        (
            dict(sorted(topics.dead_letters.items())) == expected_dead,
            f"dead letters: {expected_dead} expected, {topics.dead_letters} found",
        ),
        (
            evidence.events["total"] == evidence.events["distinct_events"],
            f"events: {evidence.events['total'] - evidence.events['distinct_events']} duplicated",
        ),
        (not any(evidence.duplicates.values()), f"duplicate rows by key: {evidence.duplicates}"),
        (
            topics.decisions == topics.auctions,
            f"ad-decisions: {topics.decisions} records for {topics.auctions} auctions",
        ),
        (
            evidence.tables["ad_decisions"] == topics.auctions,
            f"ad_decisions: {topics.auctions} in the topic, {evidence.tables['ad_decisions']} rows",
        ),
        (
            evidence.tables["bids"] == topics.auctions * len(evidence.aggregators),
            f"bids: {evidence.tables['bids']} rows for {topics.auctions} auctions of {len(evidence.aggregators)}",
        ),
        (
            evidence.ads == topics.distinct_pushes,
            f"pushes: {topics.distinct_pushes} ads in the topic, {evidence.ads} in ad_decisions",
        ),
        (topics.pushes == topics.distinct_pushes, f"pushes: {topics.pushes - topics.distinct_pushes} duplicated"),
        (topics.decided_late == 0, f"pushes: {topics.decided_late} decided after their deadline"),
        (ledger.pushes.after_deadline == 0, f"pushes: {ledger.pushes.after_deadline} reached the box too late"),
        (
            evidence.impressions["total"] == ledger.displays_reported,
            f"impressions: {ledger.displays_reported} displays reported, {evidence.impressions['total']} rows",
        ),
        (
            evidence.impressions["matched"] == evidence.impressions["total"],
            f"impressions: {evidence.impressions['total'] - evidence.impressions['matched']} without a decision",
        ),
        (
            set(evidence.outcomes) == set(evidence.aggregators),
            f"aggregators with outcomes: {sorted(evidence.outcomes)} of {sorted(evidence.aggregators)}",
        ),
        (evidence.notices.repeats == 0, f"notices: {evidence.notices.repeats} were accepted twice"),
        (evidence.notices.missing == 0, f"notices: {evidence.notices.missing} neither accepted nor a dead letter"),
        (evidence.notices.not_owed == 0, f"notices: {evidence.notices.not_owed} were sent that nobody was owed"),
    ]
    return [message for holds, message in checks if not holds]


def percentile(values: list[float], percent: int) -> float | None:
    """Nearest-rank percentile, `None` of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[max(0, -(-len(ordered) * percent // 100) - 1)], 2)
