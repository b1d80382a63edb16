"""What can be configured: type, bounds, default and meaning of every key in one place.

Values marked `Secret` are never printed; a secret is written as `{ env = "NAME" }` or `{ file = "PATH" }` or, for
trials only, as plain text.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from datastreamx.config.secrets import Secret

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,39}$", description="lower-case letters, digits, - and _")]
Topic = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
Positive = Annotated[int, Meta(ge=1)]
Millis = Annotated[int, Meta(ge=0)]
PositiveMillis = Annotated[int, Meta(ge=1)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: frozen, and an unknown key is an error, because it is a typing mistake."""


class KafkaConfig(_Section, frozen=True, kw_only=True):
    """How to reach the brokers.

    Attributes:
        bootstrap: `host:port`, several separated by commas.
        security_protocol: As librdkafka names it.
        sasl_mechanism: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER.
        oauth: Where OAUTHBEARER tokens come from: `google` (application default credentials) or `oidc` (through the
            `sasl.oauthbearer.*` keys in `librdkafka`).
        librdkafka: Any further librdkafka property for all clients; those on which correctness rests are refused.
    """

    bootstrap: Annotated[str, Meta(min_length=3)]
    security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    sasl_username: str | None = None
    sasl_password: Secret | None = None
    oauth: Literal["google", "oidc"] | None = None
    ssl_ca_file: str | None = None
    ssl_certificate_file: str | None = None
    ssl_key_file: str | None = None
    librdkafka: dict[str, str | int | bool] = {}


class TopicsConfig(_Section, frozen=True, kw_only=True):
    """Names of the topics and how `datastreamx apply` creates them."""

    events: Topic = "box-events"
    decisions: Topic = "ad-decisions"
    facts: Topic = "box-facts"
    dead_letters: Topic = "dead-letters"
    replication_factor: Positive = 1
    retention_hours: Positive = 72


class EventsConfig(_Section, frozen=True, kw_only=True):
    """How events are partitioned and read. `partitions` and `groups_per_partition` are fixed for ever.

    Attributes:
        partitions: Partitions of box-events, ad-decisions and box-facts.
        groups_per_partition: Key groups per partition; with `partitions` the unit of state.
        start: Where a flow without state begins: `beginning`, `end`, `offset:N` or `timestamp:MILLISECONDS`.
        chunk_records: Most records per poll.
        max_clock_skew_ms: A box's clock may be this far ahead of Kafka's; beyond it the event is a dead letter.
    """

    partitions: Annotated[int, Meta(ge=1, le=1000)] = 8
    groups_per_partition: Annotated[int, Meta(ge=1, le=1000)] = 2
    start: Annotated[str, Meta(pattern=r"^(beginning|end|offset:\d+|timestamp:\d+)$")] = "beginning"
    chunk_records: Annotated[int, Meta(ge=1, le=100_000)] = 5_000
    max_clock_skew_ms: Millis = 5_000


class ViewingConfig(_Section, frozen=True, kw_only=True):
    """Box state, sessions and opportunities; all durations are event time.

    Attributes:
        allowed_lateness_ms: Older events are recorded as late and change nothing.
        session_gap_ms: A box silent for longer starts a new session.
        state_ttl_ms: A box silent for longer is forgotten.
        dwell_ms: A box that stays on a channel this long after a tune is an opportunity.
        min_push_interval_ms: At most one opportunity per box in this time.
        decision_budget_ms: From an opportunity to the moment by which its push must be at the box.
        slot_ms: Length of the slot that a dwell opportunity offers.
    """

    allowed_lateness_ms: Millis = 60_000
    session_gap_ms: PositiveMillis = 1_800_000
    state_ttl_ms: PositiveMillis = 86_400_000
    dwell_ms: PositiveMillis = 15_000
    min_push_interval_ms: Millis = 120_000
    decision_budget_ms: PositiveMillis = 2_000
    slot_ms: PositiveMillis = 30_000


class AuctionConfig(_Section, frozen=True, kw_only=True):
    """How an opportunity is auctioned.

    Attributes:
        timeout_ms: Longest that an aggregator may take.
        push_reserve_ms: Kept back from the deadline for the way of the push to the box.
        min_call_ms: With less time left nobody is called.
        capacity: Auctions in flight per process; when full, opportunities are shed with a code.
        concurrency: Auctions of a process that may be asking at a time; the others of `capacity` wait for their turn,
            which costs them time before the deadline but no aggregator's. Without it the burst after a restart keeps
            the event loop from the replies, and all of them time out.
        floor_micros: Lowest acceptable price (CPM), in millionths of `currency`.
        currency: The only currency compared; bids in another are refused with a code.
        max_response_bytes: Larger replies are cut off with a code.
    """

    timeout_ms: PositiveMillis = 300
    push_reserve_ms: Millis = 300
    min_call_ms: PositiveMillis = 30
    capacity: Positive = 2_000
    concurrency: Positive = 64
    floor_micros: Annotated[int, Meta(ge=0)] = 0
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$")] = "USD"
    max_response_bytes: Positive = 262_144


class AggregatorConfig(_Section, frozen=True, kw_only=True):
    """One third-party ad aggregator.

    Attributes:
        name: How it is called in tables and metrics.
        adapter: Its dialect: a folder below `aggregators/`.
        url: Where requests go.
        headers: Fixed request headers, e.g. an API key; values are secrets.
        options: What the adapter wants to know, e.g. publisher and app ids; checked by the adapter.
    """

    name: Name
    adapter: Name
    url: Annotated[str, Meta(pattern=r"^https?://[^\s]+$")]
    headers: dict[str, Secret] = {}
    options: dict[str, str | int | bool] = {}


class BigQueryConfig(_Section, frozen=True, kw_only=True):
    """Where rows land.

    Attributes:
        rest_endpoint: Only for the local BigQuery: its REST address; unset means Google's.
        grpc_endpoint: Only for the local BigQuery: its Storage Write `host:port`.
        max_request_bytes: Upper bound of one append; the API refuses above 10 MB.
    """

    project: Annotated[str, Meta(min_length=1)]
    dataset: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]{1,1024}$")] = "datastreamx"
    location: str = "US"
    rest_endpoint: str | None = None
    grpc_endpoint: str | None = None
    max_request_bytes: Annotated[int, Meta(ge=100_000, le=9_500_000)] = 9_000_000


class WarehouseConfig(_Section, frozen=True, kw_only=True):
    """The flow from topics to BigQuery.

    Attributes:
        rollup_interval_ms: How often increments of minute_rollups are appended (wall clock).
        decision_memory_ms: How long a decision waits for its display, and a display for its decision.
    """

    rollup_interval_ms: PositiveMillis = 5_000
    decision_memory_ms: PositiveMillis = 3_600_000


class RecoveryConfig(_Section, frozen=True, kw_only=True):
    """Where state is kept and how often a snapshot is taken.

    Attributes:
        directory: One folder per flow is made below it.
        stores: SQLite files per flow; fixed when the store is made. One serves a few hundred key groups, and each more
            costs about four fsyncs per epoch, during which the flow stands still.
    """

    directory: str = "datastreamx-data/recovery"
    epoch_ms: Annotated[int, Meta(ge=100, le=60_000)] = 1_000
    stores: Annotated[int, Meta(ge=1, le=128)] = 1


class PrivacyConfig(_Section, frozen=True, kw_only=True):
    """Secret behind the pseudonyms of boxes; changing it makes every box a stranger."""

    box_key_secret: Secret


class MetricsConfig(_Section, frozen=True, kw_only=True):
    """Prometheus endpoint. `port` 0 takes a free one, unset means none."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] | None = None


class Config(_Section, frozen=True, kw_only=True):
    """The whole file."""

    kafka: KafkaConfig
    bigquery: BigQueryConfig
    privacy: PrivacyConfig
    aggregators: tuple[AggregatorConfig, ...]
    topics: TopicsConfig = TopicsConfig()
    events: EventsConfig = EventsConfig()
    viewing: ViewingConfig = ViewingConfig()
    auction: AuctionConfig = AuctionConfig()
    warehouse: WarehouseConfig = WarehouseConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    metrics: MetricsConfig = MetricsConfig()
