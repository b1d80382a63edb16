"""Every metric of the project, once: name, kind, labels and meaning.

Labels are bounded by configuration (aggregator, topic, partition, table) or by an enumeration (reason, outcome).
A box id is never a label.
"""

from __future__ import annotations

import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)

SOURCE_RECORDS = Counter("datastreamx_source_records_total", "Records read", ["topic", "partition"])
SOURCE_BYTES = Counter("datastreamx_source_bytes_total", "Bytes of record values read", ["topic", "partition"])
SOURCE_LAG_RECORDS = Gauge("datastreamx_source_lag_records", "Records not read yet", ["topic", "partition"])
SOURCE_LAG_SECONDS = Gauge(
    "datastreamx_source_lag_seconds", "Age of the newest record read, 0 when caught up", ["topic", "partition"]
)
SOURCE_ERRORS = Counter("datastreamx_source_errors_total", "Broker errors that were waited out", ["topic", "reason"])

DEAD_LETTERS = Counter("datastreamx_dead_letters_total", "Records set aside", ["reason"])
EVENTS = Counter("datastreamx_events_total", "Decoded events", ["type"])
LATE_EVENTS = Counter("datastreamx_late_events_total", "Events older than the allowed lateness")
DUPLICATE_EVENTS = Counter("datastreamx_duplicate_events_total", "Events dropped because their seq was seen before")
MISSING_SEQS = Counter("datastreamx_missing_seqs_total", "Sequence numbers skipped by boxes")
BOXES = Gauge("datastreamx_boxes", "Boxes with state", ["partition"])
SESSIONS_CLOSED = Counter("datastreamx_sessions_closed_total", "Viewing sessions closed")
OPPORTUNITIES = Counter("datastreamx_opportunities_total", "Opportunities that arose", ["trigger"])

AUCTIONS_IN_FLIGHT = Gauge("datastreamx_auctions_in_flight", "Auctions that wait for aggregators")
DECISIONS = Counter("datastreamx_decisions_total", "Decisions by status", ["status"])
DECISIONS_REUSED = Counter(
    "datastreamx_decisions_reused_total", "Opportunities found decided in the log after a restart"
)
AGGREGATOR_OUTCOMES = Counter(
    "datastreamx_aggregator_outcomes_total", "How each (auction, aggregator) ended", ["aggregator", "outcome"]
)
AGGREGATOR_LATENCY = Histogram(
    "datastreamx_aggregator_latency_seconds", "From sending to last byte or failure", ["aggregator"], buckets=_SECONDS
)
AGGREGATOR_IN_FLIGHT = Gauge("datastreamx_aggregator_in_flight", "Calls under way, late ones included", ["aggregator"])
AGGREGATOR_HEALTH = Gauge("datastreamx_aggregator_health", "Share of good calls lately, 0 to 1", ["aggregator"])
AGGREGATOR_ADMITTED = Gauge(
    "datastreamx_aggregator_admitted", "Share of calls that the throttle lets through, 0.1 to 1", ["aggregator"]
)
AGGREGATOR_TIMEOUT = Gauge("datastreamx_aggregator_timeout_seconds", "Time that it is given now", ["aggregator"])
AGGREGATOR_CONNECTIONS = Counter(
    "datastreamx_aggregator_connections_total", "Connections opened for calls", ["aggregator"]
)
AGGREGATOR_LATE = Counter(
    "datastreamx_aggregator_late_total",
    "Answers after the deadline: bid, would_have_won, no_bid",
    ["aggregator", "answer"],
)
NOTICES = Counter(
    "datastreamx_notices_total", "Notices that ended: delivered, or why not", ["aggregator", "event", "result"]
)
RATES_AGE = Gauge("datastreamx_rates_age_seconds", "Age of the exchange rates in use")
AUCTION_LATENCY = Histogram("datastreamx_auction_latency_seconds", "From first call to decision", buckets=_SECONDS)

SINK_MESSAGES = Counter("datastreamx_sink_messages_total", "Messages acknowledged by the broker", ["topic"])
SINK_ERRORS = Counter("datastreamx_sink_errors_total", "Failed deliveries, each sent again", ["topic", "reason"])

WAREHOUSE_ROWS = Counter("datastreamx_warehouse_rows_total", "Rows acknowledged by BigQuery", ["table"])
WAREHOUSE_ROWS_FLUSHED = Counter("datastreamx_warehouse_rows_flushed_total", "Rows made visible", ["table"])
WAREHOUSE_STREAMS = Counter("datastreamx_warehouse_streams_total", "Write streams created", ["table"])
WAREHOUSE_REPEATS_DROPPED = Counter(
    "datastreamx_warehouse_repeats_dropped_total", "Rows dropped because an earlier copy was loaded", ["table"]
)
WAREHOUSE_ERRORS = Counter("datastreamx_warehouse_errors_total", "Failed BigQuery calls", ["table", "reason"])
WAREHOUSE_BREAKER = Gauge("datastreamx_warehouse_breaker_open", "1 while calls are held back after failures", ["table"])
SNAPSHOT_SECONDS = Histogram("datastreamx_snapshot_seconds", "Time to write a snapshot", ["step"], buckets=_SECONDS)


def serve_metrics(host: str, port: int) -> tuple[WSGIServer, threading.Thread]:
    """Serve `/metrics` from a daemon thread; port 0 takes a free one (`server.server_port`)."""
    return start_http_server(port, addr=host, registry=REGISTRY)
