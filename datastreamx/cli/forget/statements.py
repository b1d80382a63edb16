"""Which rows are about a box, in SQL. Pure.

A table with the column `box_key` says so itself. One that has only `auction_id` (bids, late bids) is about the box
whose auctions these are: an id leads to a channel and a time, and aggregators know it, too. Tables with neither hold
sums.

Each statement filters the partition column, as every table requires. Each stands for itself: in a multi-statement
transaction BigQuery does not delete rows that were streamed lately; by itself a DELETE does, if they came through the
Storage Write API (https://cloud.google.com/bigquery/docs/write-api, "Use DML with recently streamed data").
"""

from __future__ import annotations

from datastreamx.tables import AD_DECISIONS, TABLES, Table

_KEY = "box_key"
_AUCTION = "auction_id"

# Columns by our clock or Kafka's, not by the box's, that tell when it was last heard of.
_HEARD = {"box_events": "received_time", AD_DECISIONS.name: "decided_time"}

_ITS_AUCTIONS = (
    f"{_AUCTION} IN (SELECT {_AUCTION} FROM {AD_DECISIONS.name} WHERE {AD_DECISIONS.partition_by} "  # noqa: S608  ours
    f"BETWEEN @from AND @until AND {AD_DECISIONS.partition_by} < @before AND {_KEY} IN UNNEST(@keys))"
)


def _has(table: Table, column: str) -> bool:
    return any(one.name == column for one in table.columns)


# The decisions go last: other rows are found through them, also by whoever does it again after a failure.
BY_KEY = tuple(sorted((t for t in TABLES.values() if _has(t, _KEY)), key=lambda table: table is AD_DECISIONS))
BY_AUCTION = tuple(t for t in TABLES.values() if _has(t, _AUCTION) and not _has(t, _KEY))
SUMS = tuple(t for t in TABLES.values() if t not in {*BY_KEY, *BY_AUCTION})
IN_ORDER = (*BY_AUCTION, *BY_KEY)


def count_by_key_sql() -> str:
    """Per table: name, rows, first and last partition time, when the box was last heard of.

    Parameters: `@first`, a time before all rows; `@keys`.
    """
    return "\nUNION ALL\n".join(_count(table, f">= @first AND {_KEY} IN UNNEST(@keys)") for table in BY_KEY)


def count_by_auction_sql() -> str:
    """The same for tables that know only the auction.

    Parameters: `@keys`; `@from` and `@until`, between which the box's decisions and their bids lie; `@before`, see
    `delete_sql`.
    """
    return "\nUNION ALL\n".join(_count(table, f"BETWEEN @from AND @until AND {_ITS_AUCTIONS}") for table in BY_AUCTION)


def delete_sql(table: Table) -> str:
    """Delete the box's rows of one table; parameters as for counting.

    Of decisions only those before `@before`, for the bids of the newest ones may not have landed yet, and nobody would
    find them any more.
    """
    if table in BY_AUCTION:
        condition = f"BETWEEN @from AND @until AND {_ITS_AUCTIONS}"
    else:
        condition = f">= @first AND {_KEY} IN UNNEST(@keys)"
    if table is AD_DECISIONS:
        condition += f" AND {table.partition_by} < @before"
    return f"DELETE FROM {table.name} WHERE {table.partition_by} {condition}"  # noqa: S608  our own names


def _count(table: Table, condition: str) -> str:
    column = table.partition_by
    heard = _HEARD.get(table.name)
    return (
        f"SELECT '{table.name}', COUNT(*), MIN({column}), MAX({column}), "  # noqa: S608  our own names
        f"{f'MAX({heard})' if heard else 'CAST(NULL AS TIMESTAMP)'} FROM {table.name} WHERE {column} {condition}"
    )
