"""Rows as table, CSV and JSON. Pure."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from rich.table import Table
from rich.text import Text

from datastreamx.cli.terminal import table


def plain(value: Any) -> Any:
    """Value as JSON knows it; what JSON lacks becomes text as BigQuery writes it in JSON."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case datetime() | date() | time():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode()
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _:
            return str(value)


def as_text(value: Any) -> str:
    """Value as one cell of CSV; null is the empty text."""
    match plain(value):
        case None:
            return ""
        case bool() as truth:
            return "true" if truth else "false"
        case dict() | list() as nested:
            return json.dumps(nested, ensure_ascii=False)
        case other:
            return str(other)


def as_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """RFC 4180 with a header, lines ending in a bare line feed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([as_text(value) for value in row] for row in rows)
    return out.getvalue()


def as_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """For a person; numbers are aligned to the right, null is marked."""
    numeric = tuple(
        column
        for index, column in enumerate(columns)
        if all(isinstance(row[index], int | float | Decimal | None) for row in rows)
    )
    made = table(*columns, numbers=numeric)
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def _cell(value: Any) -> Text:
    if value is None:
        return Text("null", "dim")
    if isinstance(value, datetime):
        return Text(f"{value:%Y-%m-%d %H:%M:%S.%f}"[:-3])
    return Text(as_text(value))
