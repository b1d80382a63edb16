"""How a backup and its restore are told. Pure."""

from __future__ import annotations

from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from datastreamx.cli.format import plural, size
from datastreamx.cli.terminal import table
from datastreamx.config import ScalingConfig
from flows.recovery.backup import BackupRecord
from flows.recovery.restore import RestoreReport


def render_backup(record: BackupRecord, to: Path) -> list[RenderableType]:
    """What was copied, for a person."""
    lines = table("flow", "store", "keys", "files", numbers=("keys", "files"))
    for store in record.stores:
        lines.add_row(store.flow, store.store, f"{store.keys:,}", size(store.size_bytes))
    total = sum(store.size_bytes for store in record.stores)
    return [lines, Text(f"{plural(len(record.stores), 'store')}, {size(total)}, checked, in {to}.")]


def render_restore(report: RestoreReport, scaling: ScalingConfig) -> list[RenderableType]:
    """What was put back, and what follows, for a person."""
    lines = table("flow", "store", "keys", "age", "what the broker tells", numbers=("keys",))
    for store in report.stores:
        lines.add_row(
            store.flow, store.store, f"{store.keys:,}", store.age, store.reason or "the flow did no more since"
        )
    told: list[RenderableType] = [lines]
    if report.state == "finished":
        told.append(Text("An interrupted run of this command is finished."))
    if report.set_aside is not None:
        told.append(Text(f"What was there before is in {report.set_aside}."))
    return [*told, *(Text(line) for line in _what_follows(report, scaling))]


def _what_follows(report: RestoreReport, scaling: ScalingConfig) -> list[str]:
    lines = [
        f"{flow}: {_REPEATS[flow]} Start it with `datastreamx run {flow} --accept-store`, this once."
        for flow in dict.fromkeys(store.flow for store in report.stores if store.age != "current")
    ]
    count = scaling.cells if scaling.mode == "cells" else len(scaling.addresses)
    if (scaling.mode, count) != (report.mode, report.cells):
        lines.append(
            f"The stores are for {report.cells} {report.mode}, the configuration says {count} {scaling.mode}: before a "
            f"start run `datastreamx rescale --cells {count} --mode {scaling.mode}`."
        )
    return lines


_REPEATS = {
    "ads": (
        "replays the log from where the store stands; decisions are read back, not made again, and facts that are "
        "written again are dropped as repeats."
    ),
    "warehouse": "loads rows a second time that it had loaded since the backup.",
    "notices": "sends notices a second time that it had sent since the backup.",
}
