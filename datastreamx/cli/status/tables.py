"""How fresh the tables are, in one query."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from datastreamx.cli.format import plural
from datastreamx.cli.resources.survey import bigquery_address
from datastreamx.cli.status.report import BigQueryStatus, TableStatus
from datastreamx.cli.warehouse import Warehouse
from datastreamx.config import Config
from datastreamx.errors import CrashError, RetryableError
from datastreamx.tables import TABLES
from sinks.bigquery.client import rest_client
from sinks.bigquery.schema import plan_tables

RATE_WINDOW_MS = 300_000
_RATE_WINDOW_MIN_MS = 10_000

# Column that tells when a row came to be, and how far back to look. Partitions are days, so an hour mostly reads one;
# a session's partition is the day of its start, which may be hours before its end.
_FRESHNESS = {
    "box_events": ("received_time", 1),
    "viewing_sessions": ("ended_time", 24),
    "ad_decisions": ("decided_time", 1),
    "bids": ("decided_time", 1),
    # Written only when somebody answers too late.
    "late_bids": ("decided_time", 24),
    "impressions": ("shown_time", 1),
    "minute_rollups": ("minute", 1),
}


def ask_bigquery(config: Config, now_ms: int) -> BigQueryStatus:
    """Newest row of every table and the rate of decisions; trouble becomes `BigQueryStatus.problem`."""
    address = bigquery_address(config)
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    hours = {hours for _, hours in _FRESHNESS.values()}
    parameters = {f"since_{n}h": now - timedelta(hours=n) for n in hours} | {
        "rate_since": now - timedelta(milliseconds=RATE_WINDOW_MS)
    }
    try:
        rows = Warehouse(config.bigquery, timeout_s=30).ask(freshness_sql(), parameters).rows
    except RetryableError as error:
        return BigQueryStatus(address=address, problem=str(error), is_unreachable=True)
    except CrashError as error:
        return BigQueryStatus(address=address, problem=_missing(config) or str(error))
    newest = {name: moment for name, moment, *_ in rows}
    decided, won, first = next(counts for name, _, *counts in rows if name == "ad_decisions")
    window_ms = rate_window_ms(now_ms, None if first is None else _ms(first))
    return BigQueryStatus(
        address=address,
        tables=[
            TableStatus(
                name=name,
                newest_ms=None if newest[name] is None else _ms(newest[name]),
                window_hours=window_hours,
            )
            for name, (_, window_hours) in _FRESHNESS.items()
        ],
        decisions_per_minute=decided * 60_000 / window_ms,
        wins_per_minute=won * 60_000 / window_ms,
        rate_window_ms=window_ms,
    )


def rate_window_ms(now_ms: int, first_ms: int | None) -> int:
    """Over how long decisions are counted: less than usual when the first one of all came later."""
    if first_ms is None:
        return RATE_WINDOW_MS
    return min(RATE_WINDOW_MS, max(_RATE_WINDOW_MIN_MS, now_ms - first_ms))


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _missing(config: Config) -> str | None:
    """What the query may have stumbled over. BigQuery's own error names only the first missing table."""
    try:
        changes = plan_tables(rest_client(config.bigquery), config.bigquery)
    except (RetryableError, CrashError):
        return None
    return f"{plural(len(changes), 'change')} to make first: `datastreamx apply`" if changes else None


def freshness_sql() -> str:
    """One row per table: name, newest row; of ad_decisions also decisions and wins since `@rate_since`, and the first.

    The first one lies within the window that is looked at for freshness.
    """
    return "\nUNION ALL\n".join(_one(name, *freshness) for name, freshness in _FRESHNESS.items())


def _one(name: str, column: str, window_hours: int) -> str:
    counts = "0, 0, CAST(NULL AS TIMESTAMP)"
    if name == "ad_decisions":
        recent = "decided_time >= @rate_since"
        counts = f"COUNTIF({recent}), COUNTIF({recent} AND status = 'won'), MIN(decided_time)"
    # Names come from our own constants, values are parameters.
    return (
        f"SELECT '{name}', MAX({column}), {counts} FROM {name} "  # noqa: S608  see above
        f"WHERE {TABLES[name].partition_by} >= @since_{window_hours}h"
    )
