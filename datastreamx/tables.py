"""Every table, once: columns, partition, cluster and key. Arrow and BigQuery schemas both follow from here.

Table and column names are interfaces. Columns are only ever added, and only as nullable ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import pyarrow as pa


class Kind(Enum):
    """A column's type: its BigQuery name and its Arrow type. BigQuery takes timestamps in microseconds."""

    INT64 = ("INT64", pa.int64())
    FLOAT64 = ("FLOAT64", pa.float64())
    BOOL = ("BOOL", pa.bool_())
    STRING = ("STRING", pa.string())
    TIMESTAMP = ("TIMESTAMP", pa.timestamp("us", tz="UTC"))

    @property
    def bigquery(self) -> str:
        """Standard SQL name of the type."""
        return str(self.value[0])

    @property
    def arrow(self) -> pa.DataType:
        """Arrow type in record batches."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `description` ends up in BigQuery, where analysts read it.

    Attributes:
        since: Version of the table that added it; messages of earlier versions do not have it.
    """

    name: str
    kind: Kind
    description: str
    required: bool = False
    since: int = 1


@dataclass(frozen=True)
class Table:
    """One table, partitioned by day of `partition_by`, which every query has to filter.

    Attributes:
        version: Rises when columns are added; travels in the header of fact messages.
        key: Columns that identify a row; no two rows may agree in all of them.
    """

    name: str
    version: int
    description: str
    columns: tuple[Column, ...]
    partition_by: str
    cluster_by: tuple[str, ...]
    key: tuple[str, ...]

    @cached_property
    def arrow_schema(self) -> pa.Schema:
        """Schema of this table's record batches."""
        return self.arrow_schema_of(self.version)

    def arrow_schema_of(self, version: int) -> pa.Schema:
        """Schema of record batches that an earlier version of the table wrote."""
        columns = (column for column in self.columns if column.since <= version)
        return pa.schema([pa.field(c.name, c.kind.arrow, nullable=not c.required) for c in columns])


_POSITION = (
    Column("source_partition", Kind.INT64, "Kafka partition of box-events", required=True),
    Column("key_group", Kind.INT64, "Key group within the partition", required=True),
    Column("source_offset", Kind.INT64, "Kafka offset of the record whose processing emitted this row", required=True),
    Column("ordinal", Kind.INT64, "Position among the rows that record emitted into this table", required=True),
)
_POSITION_KEY = ("source_partition", "key_group", "source_offset", "ordinal")
_LOG_POSITION = (
    Column("log_partition", Kind.INT64, "Kafka partition of ad-decisions", required=True),
    Column("log_offset", Kind.INT64, "Kafka offset of the decision in ad-decisions", required=True),
)

BOX_EVENTS = Table(
    name="box_events",
    version=1,
    description="Every event that a box reported, once, enriched with the box's state after it.",
    columns=(
        Column("event_time", Kind.TIMESTAMP, "When it happened, by the box's clock", required=True),
        Column("received_time", Kind.TIMESTAMP, "When Kafka received it", required=True),
        Column("box_key", Kind.STRING, "Keyed pseudonym of the box", required=True),
        Column("event_id", Kind.STRING, "Id that the box gave the event", required=True),
        Column("seq", Kind.INT64, "Sequence number of the box", required=True),
        Column("seq_gap", Kind.INT64, "Sequence numbers missing right before this event", required=True),
        Column("type", Kind.STRING, "tune, ad_shown, ad_break, power or heartbeat", required=True),
        Column("is_late", Kind.BOOL, "Older than the allowed lateness: recorded, state untouched", required=True),
        Column("channel_id", Kind.STRING, "Channel being viewed after the event"),
        Column("last_channel_id", Kind.STRING, "Channel viewed before that one"),
        Column("last_ad_id", Kind.STRING, "Ad displayed last"),
        Column("push_id", Kind.STRING, "ad_shown: the push that was displayed"),
        Column("ad_id", Kind.STRING, "ad_shown: the ad that was displayed"),
        Column("shown_ms", Kind.INT64, "ad_shown: for how long"),
        Column("break_id", Kind.STRING, "ad_break: id of the break"),
        Column("starts_in_ms", Kind.INT64, "ad_break: time until the break"),
        Column("duration_ms", Kind.INT64, "ad_break: length of the break"),
        Column("power_state", Kind.STRING, "power: on or standby"),
        *_POSITION,
    ),
    partition_by="event_time",
    cluster_by=("type", "channel_id", "box_key"),
    key=_POSITION_KEY,
)

VIEWING_SESSIONS = Table(
    name="viewing_sessions",
    version=1,
    description="One row per session window: a box's events with no gap longer than session_gap.",
    columns=(
        Column("started_time", Kind.TIMESTAMP, "First event of the session", required=True),
        Column("ended_time", Kind.TIMESTAMP, "Last event of the session", required=True),
        Column("box_key", Kind.STRING, "Keyed pseudonym of the box", required=True),
        Column("session_id", Kind.STRING, "Follows from box and start", required=True),
        Column("duration_ms", Kind.INT64, "From first to last event", required=True),
        Column("events", Kind.INT64, "Events in the session", required=True),
        Column("tunes", Kind.INT64, "Channel changes in the session", required=True),
        Column("ads_shown", Kind.INT64, "Ads displayed in the session", required=True),
        Column("first_channel_id", Kind.STRING, "Channel of the first tune"),
        Column("last_channel_id", Kind.STRING, "Channel of the last tune"),
        *_POSITION,
    ),
    partition_by="started_time",
    cluster_by=("box_key",),
    key=_POSITION_KEY,
)

AD_DECISIONS = Table(
    name="ad_decisions",
    version=2,
    description="One row per opportunity: its context, who could be called, and what was decided.",
    columns=(
        Column("decided_time", Kind.TIMESTAMP, "When it was decided", required=True),
        Column("opportunity_time", Kind.TIMESTAMP, "Event time of the opportunity", required=True),
        Column("emitted_time", Kind.TIMESTAMP, "Kafka time of the event that made it known", required=True),
        Column("deadline_time", Kind.TIMESTAMP, "After this no push may reach the box", required=True),
        Column("auction_id", Kind.STRING, "Id of the opportunity", required=True),
        Column("box_key", Kind.STRING, "Keyed pseudonym of the box", required=True),
        Column("trigger", Kind.STRING, "dwell or ad_break", required=True),
        Column("status", Kind.STRING, "won, no_bid, expired or shed", required=True),
        Column("channel_id", Kind.STRING, "Channel being viewed", required=True),
        Column("last_channel_id", Kind.STRING, "Channel viewed before"),
        Column("last_ad_id", Kind.STRING, "Ad displayed last"),
        Column("break_id", Kind.STRING, "Ad break, if one was the trigger"),
        Column("slot_ms", Kind.INT64, "Length of the slot", required=True),
        Column("push_id", Kind.STRING, "Push that carried the winner; with several ads that of the first"),
        Column("aggregator", Kind.STRING, "Aggregator that won; with several ads that of the first"),
        Column("ad_id", Kind.STRING, "Ad that won; with several ads the first"),
        Column("price_micros", Kind.INT64, "Winning price (CPM) in millionths of the currency, of all ads together"),
        Column("currency", Kind.STRING, "Currency of the price"),
        Column("policy", Kind.STRING, "Policy that chose whom to call", required=True),
        Column("model_version", Kind.STRING, "Model behind the policy"),
        Column("candidates", Kind.STRING, "JSON: aggregator, called and propensity of every candidate", required=True),
        Column("queue_us", Kind.INT64, "From hand-over to the first call, microseconds"),
        Column("auction_us", Kind.INT64, "From the first call to the decision, microseconds"),
        *_LOG_POSITION,
        Column("explored", Kind.BOOL, "Of the share in which everyone is called, whatever the policy", since=2),
        Column("history_allowed", Kind.BOOL, "Whether consent lets viewing history leave the house", since=2),
        Column("ads", Kind.INT64, "Number of ads that won", since=2),
        Column("break_ads", Kind.STRING, "JSON: every ad of a break of several, in order; else null", since=2),
    ),
    partition_by="decided_time",
    cluster_by=("status", "aggregator", "channel_id"),
    key=("auction_id",),
)

BIDS = Table(
    name="bids",
    version=2,
    description="One row per auction and aggregator, with exactly one outcome code, called or not.",
    columns=(
        Column("decided_time", Kind.TIMESTAMP, "When the auction was decided", required=True),
        Column("auction_id", Kind.STRING, "Id of the opportunity", required=True),
        Column("aggregator", Kind.STRING, "Configured name of the aggregator", required=True),
        Column("outcome", Kind.STRING, "What became of it, e.g. won, outbid, no_bid, timeout", required=True),
        Column("outcome_code", Kind.INT64, "The same as a number: seat-non-bid codes, ours from 500", required=True),
        Column("called", Kind.BOOL, "Whether a request was sent", required=True),
        Column("propensity", Kind.FLOAT64, "Probability of its call here, policy and throttle together", required=True),
        Column("attempt", Kind.INT64, "1, and one more per re-issue after a crash", required=True),
        Column("channel_id", Kind.STRING, "Channel being viewed", required=True),
        Column("tmax_ms", Kind.INT64, "Time that the aggregator was told it has"),
        Column("latency_us", Kind.INT64, "From sending to last byte or failure, microseconds"),
        Column("http_status", Kind.INT64, "Status of the reply"),
        Column("response_bytes", Kind.INT64, "Size of the reply, decoded"),
        Column("bid_id", Kind.STRING, "The aggregator's id of its best bid"),
        Column("price_micros", Kind.INT64, "Price (CPM) in millionths of the currency"),
        Column("currency", Kind.STRING, "Currency of the price"),
        Column("ad_id", Kind.STRING, "Ad that was offered"),
        Column("detail", Kind.STRING, "Why, for a human"),
        *_LOG_POSITION,
        Column("queue_us", Kind.INT64, "From the auction's hand-over to this call, microseconds", since=2),
        Column("dns_us", Kind.INT64, "Time to resolve the host, if a connection was opened", since=2),
        Column("connect_us", Kind.INT64, "Time to connect, TLS included, if a connection was opened", since=2),
        Column("first_byte_us", Kind.INT64, "From sending to the head of the reply", since=2),
        Column("connection_reused", Kind.BOOL, "Whether the call found an open connection", since=2),
        Column("bids", Kind.INT64, "Bids in the reply", since=2),
        Column("ads_won", Kind.INT64, "How many of them won", since=2),
        Column("offered_micros", Kind.INT64, "The price as offered, in millionths of offered_currency", since=2),
        Column("offered_currency", Kind.STRING, "Currency of the offer", since=2),
        Column("rate_id", Kind.STRING, "Exchange rates that converted it, null if none were needed", since=2),
        Column("floor_micros", Kind.INT64, "Lowest price acceptable from this aggregator here", since=2),
        Column("advertiser_domain", Kind.STRING, "Whose ad was offered", since=2),
        Column("no_bid_reason", Kind.INT64, "OpenRTB nbr, if told", since=2),
        Column("notices", Kind.STRING, "Notices that its bids asked for, e.g. win,billing", since=2),
    ),
    partition_by="decided_time",
    cluster_by=("aggregator", "outcome", "channel_id"),
    key=("auction_id", "aggregator"),
)

LATE_BIDS = Table(
    name="late_bids",
    version=1,
    description="One row per answer that came after its auction was closed: read for its lesson, never awarded.",
    columns=(
        Column("decided_time", Kind.TIMESTAMP, "When its auction was decided", required=True),
        Column("auction_id", Kind.STRING, "Id of the opportunity", required=True),
        Column("aggregator", Kind.STRING, "Configured name of the aggregator", required=True),
        Column("channel_id", Kind.STRING, "Channel being viewed", required=True),
        Column("latency_us", Kind.INT64, "From sending to the last byte, microseconds", required=True),
        Column("price_micros", Kind.INT64, "Best valid price (CPM) in millionths of auction.currency, null: no bid"),
        Column("would_have_won", Kind.BOOL, "Whether in time it would have won", required=True),
        Column("log_partition", Kind.INT64, "Kafka partition of the decision that it travelled with", required=True),
        Column("log_offset", Kind.INT64, "Kafka offset of that decision", required=True),
    ),
    partition_by="decided_time",
    cluster_by=("aggregator", "channel_id"),
    key=("auction_id", "aggregator"),
)

IMPRESSIONS = Table(
    name="impressions",
    version=1,
    description="One row per displayed ad, joined to the decision that pushed it.",
    columns=(
        Column("shown_time", Kind.TIMESTAMP, "When the box displayed it, by its clock", required=True),
        Column("box_key", Kind.STRING, "Keyed pseudonym of the box", required=True),
        Column("push_id", Kind.STRING, "Push that was displayed", required=True),
        Column("ad_id", Kind.STRING, "Ad that was displayed", required=True),
        Column("shown_ms", Kind.INT64, "For how long", required=True),
        Column("is_matched", Kind.BOOL, "Whether the decision was found; if not, its columns are null", required=True),
        Column("auction_id", Kind.STRING, "Id of the opportunity"),
        Column("aggregator", Kind.STRING, "Aggregator that won"),
        Column("price_micros", Kind.INT64, "Price (CPM) in millionths of the currency"),
        Column("currency", Kind.STRING, "Currency of the price"),
        Column("channel_id", Kind.STRING, "Channel at the time of the decision"),
        Column("decided_time", Kind.TIMESTAMP, "When it was decided"),
        *_POSITION,
    ),
    partition_by="shown_time",
    cluster_by=("aggregator", "channel_id", "ad_id"),
    key=_POSITION_KEY,
)

MINUTE_ROLLUPS = Table(
    name="minute_rollups",
    version=1,
    description=(
        "What dashboards read: increments per minute, channel and aggregator. Always SUM: a minute has several rows. "
        "Events and sessions have no aggregator; calls and bids have one."
    ),
    columns=(
        Column("minute", Kind.TIMESTAMP, "Start of the minute (event time; decisions: decision time)", required=True),
        Column("channel_id", Kind.STRING, "Channel, null for a box that is on none"),
        Column("aggregator", Kind.STRING, "Aggregator, null where none is involved"),
        Column("events", Kind.INT64, "Events of boxes", required=True),
        Column("late_events", Kind.INT64, "Events that came too late", required=True),
        Column("tunes", Kind.INT64, "Channel changes", required=True),
        Column("opportunities", Kind.INT64, "Opportunities decided", required=True),
        Column("wins", Kind.INT64, "Ads that won", required=True),
        Column("calls", Kind.INT64, "Requests to the aggregator", required=True),
        Column("bids", Kind.INT64, "Calls that it answered with a bid", required=True),
        Column("timeouts", Kind.INT64, "Calls that it did not answer in time", required=True),
        Column("errors", Kind.INT64, "Calls that failed or were answered wrongly", required=True),
        Column("impressions", Kind.INT64, "Ads displayed", required=True),
        Column("revenue_micros", Kind.INT64, "Sum of price (CPM) / 1000 of displayed ads, millionths", required=True),
    ),
    partition_by="minute",
    cluster_by=("channel_id", "aggregator"),
    key=(),
)

FACT_TABLES: dict[str, Table] = {t.name: t for t in (BOX_EVENTS, VIEWING_SESSIONS)}
TABLES: dict[str, Table] = {
    t.name: t for t in (BOX_EVENTS, VIEWING_SESSIONS, AD_DECISIONS, BIDS, LATE_BIDS, IMPRESSIONS, MINUTE_ROLLUPS)
}


Row = tuple[object, ...]
"""Values of one row in column order; timestamps are microseconds."""


def record_batch(table: Table, rows: Sequence[Row]) -> pa.RecordBatch:
    """Record batch of at least one row: transposed in C, no dictionary per row."""
    schema = table.arrow_schema
    columns = zip(*rows, strict=True)
    return pa.record_batch(
        [pa.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
    )
