"""The rows behind an explanation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from datastreamx.cli.explain.report import Explanation, Record, Rows, ads_of, assemble

if TYPE_CHECKING:
    from datastreamx.cli.warehouse import Answer, Parameter, Warehouse

_DECISIONS = """
SELECT * FROM ad_decisions
WHERE decided_time >= @since AND box_key = @box_key
ORDER BY decided_time DESC
LIMIT @last
"""
_BIDS = "SELECT * FROM bids WHERE decided_time BETWEEN @first AND @newest AND auction_id IN UNNEST(@auction_ids)"
_LATE = "SELECT * FROM late_bids WHERE decided_time BETWEEN @first AND @newest AND auction_id IN UNNEST(@auction_ids)"
# An ad is displayed at its opportunity or after it, by the box's clock, which is not ours.
_DISPLAYS = "SELECT * FROM impressions WHERE shown_time >= @first AND push_id IN UNNEST(@push_ids)"
_EVENTS = """
SELECT COUNT(*) AS events, MAX(event_time) AS newest, COUNTIF(type = 'tune') AS tunes FROM box_events
WHERE event_time >= @since AND box_key = @box_key
"""

_CLOCKS = timedelta(minutes=5)


def fetch(warehouse: Warehouse, box_key: str, *, last: int, since_hours: int, now_ms: int) -> Explanation:
    """The `last` decisions for a box within `since_hours`, newest first.

    Raises:
        RetryableError: BigQuery is unwell.
        CrashError: It refuses, for example because the tables do not exist.
    """
    since = _since(now_ms, since_hours)
    decisions = _records(
        warehouse.ask(_DECISIONS, {"since": since, "box_key": box_key, "last": last}),
    )
    bids: list[Record] = []
    late: list[Record] = []
    displays: list[Record] = []
    if decisions:
        first, newest = decisions[-1]["decided_time"], decisions[0]["decided_time"]
        ids = tuple(row["auction_id"] for row in decisions)
        bids = _records(warehouse.ask(_BIDS, {"first": first, "newest": newest, "auction_ids": ids}))
        # A decision that was withdrawn before it left has a later time than its late answers know.
        around: dict[str, Parameter] = {"first": first - _CLOCKS, "newest": newest + _CLOCKS, "auction_ids": ids}
        late = _records(warehouse.ask(_LATE, around))
        if pushes := tuple(ad.push_id for row in decisions for ad in ads_of(row)):
            displays = _records(warehouse.ask(_DISPLAYS, {"first": first - _CLOCKS, "push_ids": pushes}))
    return assemble(box_key, since_hours, Rows(decisions, bids, late, displays))


def why_nothing(warehouse: Warehouse, box_key: str, *, since_hours: int, now_ms: int) -> str:
    """Why there may be no decision for a box, from its events; raises as `fetch`."""
    row = warehouse.ask(_EVENTS, {"since": _since(now_ms, since_hours), "box_key": box_key}).records[0]
    if not row["events"]:
        return (
            "nor is any event of it known: check the box id, privacy.box_key_secret and that the warehouse flow keeps "
            "up (`datastreamx status`), or look further back with --since HOURS"
        )
    return (
        f"but {row['events']:,} events of it, {row['tunes']:,} of them tunes, the newest at {row['newest']:%F %T} UTC: "
        "no opportunity arose (viewing.dwell_ms, ad breaks), or its decision has not landed yet"
    )


def _records(answer: Answer) -> list[Record]:
    return [*answer.records]


def _since(now_ms: int, hours: int) -> datetime:
    return datetime.fromtimestamp(now_ms / 1000, UTC) - timedelta(hours=hours)
