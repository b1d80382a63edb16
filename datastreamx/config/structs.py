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


class FloorRule(_Section, frozen=True, kw_only=True):
    """A floor for part of the auctions.

    An empty condition matches all; of several rules that match, the one with the most conditions counts, of equals the
    later one.

    Attributes:
        channels: Channel ids.
        hours_utc: Hours of the day in UTC, e.g. `[18, 19, 20, 21, 22]`.
        aggregators: Names of aggregators.
        floor_micros: Lowest acceptable price (CPM), in millionths of `auction.currency`.
    """

    floor_micros: Annotated[int, Meta(ge=0)]
    channels: tuple[str, ...] = ()
    hours_utc: tuple[Annotated[int, Meta(ge=0, le=23)], ...] = ()
    aggregators: tuple[Name, ...] = ()


class AuctionConfig(_Section, frozen=True, kw_only=True):
    """How an opportunity is auctioned.

    Attributes:
        timeout_ms: Longest that an aggregator may take.
        push_reserve_ms: Kept back from the deadline for the way of the push to the box.
        min_call_ms: With less time left nobody is called.
        late_grace_ms: For how long after its deadline an answer is still read, for its lesson and its connection.
        close_at_micros: Close an auction as soon as a valid bid reaches this price (CPM). Unset: wait for everyone.
        capacity: Auctions in flight per process; when full, opportunities are shed with a code.
        concurrency: Auctions of a process that may be asking at a time; the others of `capacity` wait for their turn,
            which costs them time before the deadline but no aggregator's.
        max_wait_ms: While the first in line has waited for its turn longer than this, opportunities are shed: they
            would only wait as long, and have no time left.
        floor_micros: Lowest acceptable price (CPM), in millionths of `currency`, where no rule of `floors` matches.
        max_price_micros: A higher price (CPM) is taken for a mistake, and refused.
        currency: What prices are compared in.
        rates_file: TOML file with exchange rates; unset: bids in another currency are refused with a code.
        rates_max_age_hours: Older rates are not used.
        separate_advertisers: The advertiser of the last ad displayed cannot win the next slot, and no advertiser has
            two ads in one break.
        blocked_advertisers: Domains whose ads never win.
        creative_hosts: Hosts that creatives may come from; `*.example.com` matches its subdomains. Empty: any.
        max_ads_per_break: Most ads in a break that is longer than `viewing.slot_ms`.
        max_response_bytes: Larger replies are cut off with a code.
    """

    timeout_ms: PositiveMillis = 300
    push_reserve_ms: Annotated[int, Meta(ge=20)] = 300
    min_call_ms: PositiveMillis = 30
    late_grace_ms: Millis = 500
    close_at_micros: Positive | None = None
    capacity: Positive = 2_000
    concurrency: Positive = 1_000
    max_wait_ms: PositiveMillis = 500
    floor_micros: Annotated[int, Meta(ge=0)] = 0
    floors: tuple[FloorRule, ...] = ()
    max_price_micros: Positive = 1_000_000_000
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$")] = "USD"
    rates_file: str | None = None
    rates_max_age_hours: Positive = 48
    separate_advertisers: bool = True
    blocked_advertisers: tuple[str, ...] = ()
    creative_hosts: tuple[str, ...] = ()
    max_ads_per_break: Annotated[int, Meta(ge=1, le=16)] = 6
    max_response_bytes: Positive = 262_144


class SelectionConfig(_Section, frozen=True, kw_only=True):
    """Who is asked.

    Attributes:
        policy: `all`; `waterfall`: one after the other until somebody bids; `weighted`: each with its probability;
            `thompson`: those that are likely to bring the most, learned per aggregator and channel group.
        explore: Share of the auctions in which everyone is called, whatever the policy: what models learn from.
        min_probability: `weighted` and `thompson` call nobody less often than this, else a verdict could never change.
        calls: `thompson`: how many aggregators it is after.
        order: `waterfall`: names, first asked first. Those not named follow in the order of the configuration.
        weights: `weighted`: probability by name; those not named have 1.
        channel_groups: `thompson`: channel ids by group; all other channels are one more group.
    """

    policy: Literal["all", "waterfall", "weighted", "thompson"] = "all"
    explore: Annotated[float, Meta(ge=0.001, le=0.5)] = 0.02
    min_probability: Annotated[float, Meta(ge=0.001, le=1)] = 0.05
    calls: Positive = 2
    order: tuple[Name, ...] = ()
    weights: dict[str, Annotated[float, Meta(ge=0, le=1)]] = {}
    channel_groups: dict[str, tuple[str, ...]] = {}


NoticeEvent = Literal["win", "loss", "billing"]


class AggregatorConfig(_Section, frozen=True, kw_only=True):
    """One third-party ad aggregator.

    Attributes:
        name: How it is called in tables and metrics.
        adapter: Its dialect: a folder below `aggregators/`.
        url: Where requests go.
        headers: Fixed request headers, e.g. an API key; values are secrets.
        options: What the adapter wants to know, e.g. publisher and app ids; checked by the adapter.
        timeout_ms: Longest that this one may take; unset: `auction.timeout_ms`.
        dynamic_timeout: Wait only as long as its recent answers have taken, within `timeout_ms`.
        max_in_flight: Calls under way at a time. Beyond it the aggregator is skipped, it never queues.
        throttle: Call it less often while most of its calls fail: `on`, `simulate` (only tell) or `off`.
        warm_connections: Connections kept open, so that a break does not begin with handshakes.
        consent_required: Ask it only where viewing history may leave the house, see `privacy.history`.
        withhold: What it does not get: `box_key`, `history` (previous channel, last ad), `consent`.
        notices: Which notices it gets. `billing` only if it is not paid by the VAST impression, else it bills twice.
        notice_hosts: Hosts that notices may go to; `*.example.com` matches its subdomains.
        notice_network: `public`: only https on port 443, only public addresses. `any`: for trials on one machine.
        ssl_ca_file: Certificates to trust instead of the system's.
        ssl_certificate_file: Client certificate for mutual TLS.
        ssl_key_file: Its key.
    """

    name: Name
    adapter: Name
    url: Annotated[str, Meta(pattern=r"^https?://[^\s]+$")]
    headers: dict[str, Secret] = {}
    options: dict[str, str | int | bool] = {}
    timeout_ms: PositiveMillis | None = None
    dynamic_timeout: bool = True
    max_in_flight: Positive = 256
    throttle: Literal["on", "simulate", "off"] = "on"
    warm_connections: Annotated[int, Meta(ge=0, le=256)] = 4
    consent_required: bool = False
    withhold: tuple[Literal["box_key", "history", "consent"], ...] = ()
    notices: tuple[NoticeEvent, ...] = ()
    notice_hosts: tuple[str, ...] = ()
    notice_network: Literal["public", "any"] = "public"
    ssl_ca_file: str | None = None
    ssl_certificate_file: str | None = None
    ssl_key_file: str | None = None


class NoticesConfig(_Section, frozen=True, kw_only=True):
    """How aggregators are told what became of their bids.

    Attributes:
        timeout_ms: Longest that one attempt may take.
        retry_interval_ms: Between two attempts.
        attempts: Most attempts; then the notice is a dead letter.
        max_in_flight: Notices under way at a time.
    """

    timeout_ms: PositiveMillis = 2_000
    retry_interval_ms: PositiveMillis = 10_000
    attempts: Annotated[int, Meta(ge=1, le=100)] = 6
    max_in_flight: Positive = 64


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
        handover: Folder that the processes of all cells reach, where `directory` is a volume that only one of them
            reaches. A flow that was stopped leaves a copy of its store there, for a re-shard, and `datastreamx prepare`
            takes what a re-shard has left. Unset: none.
    """

    directory: str = "datastreamx-data/recovery"
    epoch_ms: Annotated[int, Meta(ge=100, le=60_000)] = 1_000
    handover: Annotated[str, Meta(min_length=1)] | None = None


class ScalingConfig(_Section, frozen=True, kw_only=True):
    """How a flow is spread over processes; the same for all flows. Change it with `datastreamx rescale`.

    Attributes:
        mode: `cells`: each process owns partitions, a recovery store and nothing else. `cluster`: one Bytewax cluster.
        cells: Number of cells; cell N owns the partitions p with p % cells == N.
        addresses: `cluster`: `host:port` of every process, in the order of their ordinals. The port exchanges pickled
            items without authentication: only on a network of your own.
    """

    mode: Literal["cells", "cluster"] = "cells"
    cells: Annotated[int, Meta(ge=1, le=1000)] = 1
    addresses: tuple[Annotated[str, Meta(pattern=r"^[^:\s]+:\d{1,5}$")], ...] = ()


class PrivacyConfig(_Section, frozen=True, kw_only=True):
    """What leaves the house.

    Attributes:
        box_key_secret: Secret behind the pseudonyms of boxes; changing it makes every box a stranger.
        history: `consented`: previous channel and last ad go to aggregators only if the box says that its viewer
            agrees. `always`: to all that do not have it withheld; only where the law needs no consent.
    """

    box_key_secret: Secret
    history: Literal["consented", "always"] = "consented"


class PushConfig(_Section, frozen=True, kw_only=True):
    """Optional signature of pushes, so that a box accepts none from anybody else.

    Attributes:
        signing_key: Ed25519 private key: 32 bytes as 64 hex digits.
        signing_key_id: How boxes find the public key; needed with `signing_key`.
    """

    signing_key: Secret | None = None
    signing_key_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None


class MetricsConfig(_Section, frozen=True, kw_only=True):
    """`/metrics`, `/livez`, `/readyz` and `/status` of each process.

    Attributes:
        host: Where to listen.
        port: 0 takes a free one, unset means none.
        peers: Where all processes can be asked: an address with `{flow}` and `{ordinal}` in it. `datastreamx status`
            then shows the whole deployment. Unset: only what left its traces on this machine.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] | None = None
    peers: str | None = None


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
    selection: SelectionConfig = SelectionConfig()
    notices: NoticesConfig = NoticesConfig()
    push: PushConfig = PushConfig()
    warehouse: WarehouseConfig = WarehouseConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    scaling: ScalingConfig = ScalingConfig()
    metrics: MetricsConfig = MetricsConfig()
