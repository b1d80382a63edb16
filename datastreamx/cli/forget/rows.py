"""The box's rows: counted, deleted, counted again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from datastreamx.cli.forget.report import TableRows
from datastreamx.cli.forget.statements import (
    BY_AUCTION,
    IN_ORDER,
    count_by_auction_sql,
    count_by_key_sql,
    delete_sql,
)
from datastreamx.cli.warehouse import Answer, Parameter, Warehouse
from datastreamx.tables import AD_DECISIONS

LANDING = timedelta(minutes=10)
"""A decision and its bids become visible within seconds of each other. Those of decisions that are younger than this
may still be on their way; they are left, to be found by the next run."""

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)

_AROUND = timedelta(days=1)
"""A late bid may know another time of its decision, by minutes; partitions are days."""


@dataclass(frozen=True)
class Survey:
    """What the tables hold about a box.

    Attributes:
        tables: In the order of deletion.
        heard_ms: When it was last heard of.
        bytes_read: By the questions.
    """

    tables: list[TableRows]
    heard_ms: int | None
    bytes_read: int


def survey(warehouse: Warehouse, keys: tuple[str, ...]) -> Survey:
    """Count the rows of the box with these pseudonyms in every table.

    Raises:
        RetryableError: BigQuery is unwell.
        CrashError: It refuses, for example because a table does not exist.
    """
    answer = warehouse.ask(count_by_key_sql(), {"first": _FIRST, "keys": keys})
    found = _tables(answer)
    heard = [row[4] for row in answer.rows if row[4] is not None]
    bytes_read = answer.bytes_processed
    around = _around(found)
    if around is None:
        found |= {table.name: TableRows(name=table.name, rows=0) for table in BY_AUCTION}
    else:
        # After all decisions: counted are those of the newest ones, too.
        answer = warehouse.ask(count_by_auction_sql(), {"keys": keys, **around, "before": around["until"]})
        found |= _tables(answer)
        bytes_read += answer.bytes_processed
    return Survey([found[table.name] for table in IN_ORDER], max(map(_ms, heard), default=None), bytes_read)


def erase(
    warehouse: Warehouse,
    keys: tuple[str, ...],
    found: Survey,
    now: datetime,
    on_table: Callable[[str], None] = lambda _: None,
) -> dict[str, int]:
    """Delete what was found; how many rows by table. Done again, also after a failure, it deletes what is left.

    Raises:
        RetryableError: BigQuery is unwell; what was deleted stays deleted.
        CrashError: It refuses; likewise.
    """
    rows = {table.name: table for table in found.tables}
    around = _around(rows) or {}
    erased = {}
    for table in IN_ORDER:
        if not rows[table.name].rows:
            continue
        on_table(table.name)
        place: dict[str, Parameter] = around if table in BY_AUCTION else {"first": _FIRST}
        needs_before = table in {*BY_AUCTION, AD_DECISIONS}
        parameters: dict[str, Parameter] = {
            "keys": keys,
            **place,
            **({"before": now - LANDING} if needs_before else {}),
        }
        erased[table.name] = warehouse.ask(delete_sql(table), parameters).changed
    return erased


def _around(found: dict[str, TableRows]) -> dict[str, Parameter] | None:
    """Between which times the box's auctions lie; unset if it has none."""
    decisions = found[AD_DECISIONS.name]
    if decisions.oldest_ms is None or decisions.newest_ms is None:
        return None
    return {"from": _moment(decisions.oldest_ms) - _AROUND, "until": _moment(decisions.newest_ms) + _AROUND}


def _tables(answer: Answer) -> dict[str, TableRows]:
    return {
        name: TableRows(
            name=name,
            rows=rows,
            oldest_ms=None if oldest is None else _ms(oldest),
            newest_ms=None if newest is None else _ms(newest),
        )
        for name, rows, oldest, newest, _ in answer.rows
    }


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
