"""An erasure for a person. Pure."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from datastreamx.cli.forget.report import Erasure, Remain, TableRows, notes
from datastreamx.cli.format import duration, plural, size, utc
from datastreamx.cli.terminal import indented, table

_NOTHING = "-"


def render(erasure: Erasure) -> list[RenderableType]:
    """Tables, what is left elsewhere, and what to do."""
    heard = (
        "never, as far as the tables know"
        if erasure.heard_ms is None
        else f"{utc(erasure.heard_ms)}, {duration(max(0, erasure.at_ms - erasure.heard_ms))} ago"
    )
    counts = table("Table", "Rows", "From", "Until", "Erased", "Left", numbers=("Rows", "Erased", "Left"))
    for one in erasure.tables:
        counts.add_row(*_row(one))
    elsewhere = table("Where else", "Until", "What, how long, what to do")
    for place in erasure.remains:
        elsewhere.add_row(place.place, _until(place, erasure.at_ms), _about(place))
    told = [Text(f"  {one.aggregator}  {one.key}") for one in erasure.partner_keys]
    read = f"; {size(erasure.bytes_read)} read" if erasure.bytes_read else ""
    return [
        Text.assemble(("Box", "bold"), f" {', '.join(erasure.box_keys)}"),
        Text(f"  last heard of  {heard}"),
        indented(counts),
        Text(f"  {', '.join(erasure.untouched)}: sums of many boxes, nothing of it to erase{read}"),
        Text(),
        Text("What is left elsewhere", "bold"),
        indented(elsewhere),
        *([Text(), Text("Pseudonyms at aggregators", "bold"), *told] if told else []),
        *([Text()] if notes(erasure) else []),
        *(Text(f"! {note}", "yellow") for note in notes(erasure)),
        Text(),
        Text(_result(erasure), "bold"),
    ]


def _result(erasure: Erasure) -> str:
    if not erasure.is_done:
        return f"Nothing was changed: --yes erases {plural(erasure.rows, 'row')}."
    erased = sum(one.erased or 0 for one in erasure.tables)
    return f"{plural(erased, 'row')} erased, {erasure.left:,} left."


def _row(one: TableRows) -> list[str]:
    times = (_NOTHING if ms is None else utc(ms)[:10] for ms in (one.oldest_ms, one.newest_ms))
    counts = (_NOTHING if count is None else f"{count:,}" for count in (one.erased, one.left))
    return [one.name, f"{one.rows:,}", *times, *counts]


def _until(place: Remain, at_ms: int) -> str:
    if place.until_ms is None:
        return _NOTHING
    return "gone by now" if place.until_ms <= at_ms else utc(place.until_ms)[:16]


def _about(place: Remain) -> str:
    return "; ".join(part for part in (place.holds, place.lasts, place.remedy) if part)
