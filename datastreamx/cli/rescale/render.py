"""How a re-shard is told. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from datastreamx.cli.format import size
from datastreamx.cli.terminal import table
from flows.recovery.rescale import RescaleReport, StoreLine


def render(report: RescaleReport) -> list[RenderableType]:
    """The report for a person."""
    lines: list[RenderableType] = []
    if report.before:
        lines += [Text("Found", "bold"), _stores(report.before)]
    if report.after:
        lines += [Text("Planned" if report.state == "planned" else "Now", "bold"), _stores(report.after)]
    lines += [Text(f"{flow}: no recovery store here, nothing to share out") for flow in report.flows_without_store]
    if report.set_aside is not None:
        lines.append(Text(f"The old stores are in {report.set_aside}. Delete them when the flows have run well."))
    lines.append(Text(_SUMMARY[report.state]))
    if report.handed_over is not None:
        lines.append(Text(f"They wait in {report.handed_over}; `datastreamx prepare` takes each to its place."))
    if report.state != "planned":
        lines.append(Text(f"Now set {_setting(report)} in the configuration, then start every process of each flow."))
    return lines


def _setting(report: RescaleReport) -> str:
    if report.mode == "cells":
        return f"scaling.cells = {report.cells}"
    return f'scaling.mode = "cluster" and {report.cells} scaling.addresses'


_SHOWN = 8

_SUMMARY = {
    "planned": "Nothing was changed.",
    "done": "Done: every row was moved, read back and found to be the same.",
    "finished": "An interrupted run of this command is finished: its stores had been checked before.",
    "nothing": "The stores are as wanted already.",
}


def _stores(stores: Sequence[StoreLine]) -> RenderableType:
    lines = table("flow", "store", "partitions", "keys", "state", numbers=("keys", "state"))
    for store in stores:
        lines.add_row(store.flow, store.store, _few(store.partitions), f"{store.keys:,}", size(store.state_bytes))
    return lines


def _few(partitions: Sequence[int]) -> str:
    if len(partitions) <= _SHOWN:
        return ", ".join(map(str, partitions))
    return f"{', '.join(map(str, partitions[: _SHOWN - 2]))} ... {partitions[-1]} ({len(partitions)})"
