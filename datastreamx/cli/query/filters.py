"""Which of our tables a query names without their partition filter. Pure.

A guess from the text, for hints: BigQuery itself refuses such a query, the local one does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from datastreamx.tables import TABLES, Table

_NOT_SQL = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|--[^\n]*|#[^\n]*|/\*.*?\*/", re.DOTALL)


def unfiltered_tables(sql: str, tables: Iterable[Table] = tuple(TABLES.values())) -> list[Table]:
    """Tables that `sql` reads although it names their partition column nowhere after `WHERE` or `ON`."""
    words = re.findall(r"\w+", _NOT_SQL.sub(" ", sql).lower())
    first_filter = next((index for index, word in enumerate(words) if word in {"where", "on"}), len(words))
    read, filtered = set(words), set(words[first_filter:])
    return [table for table in tables if table.name in read and table.partition_by not in filtered]


def filter_hint(tables: Iterable[Table]) -> str:
    """How to add the filters of `tables`."""
    lines = [
        f"{table.name}: AND {table.partition_by} >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 1 HOUR)"
        for table in tables
    ]
    return "\n".join(["every table wants a filter on its partition column, which bounds what a query costs:", *lines])


def is_missing_filter(message: str) -> bool:
    """Whether BigQuery refused a query for its missing partition filter."""
    return "without a filter over column" in message
