"""The status for a person. Pure."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from datastreamx.cli.format import cpm, duration, plural, size
from datastreamx.cli.status.cells import ended, is_heard_of
from datastreamx.cli.status.render_cells import render_cells
from datastreamx.cli.status.report import FlowStatus, Lag, LastDecision, ProcessStatus, Status, diagnose, total_lag
from datastreamx.cli.terminal import indented, table

UNKNOWN = "unknown"


def render(status: Status, *, all_cells: bool = False) -> list[RenderableType]:
    """Flows, their processes and lags, tables and what deserves attention.

    Args:
        status: What was found.
        all_cells: Of a deployment show all processes and partitions, not only the processes that are not well.
    """
    parts: list[RenderableType] = [_heading("Kafka", status.kafka.address, status.kafka.problem)]
    if status.kafka.problem is None:
        newest_ms = status.kafka.newest_event_ms
        parts += [
            Text(f"  newest event   {_ago(status.at_ms, newest_ms, 'none')}"),
            Text(f"  last decision  {_decision(status.at_ms, status.kafka.last_decision)}"),
        ]
    for flow in status.flows:
        parts += _flow(status, flow, all_cells=all_cells)
    bigquery = status.bigquery
    parts += [Text(), _heading("BigQuery", bigquery.address, bigquery.problem)]
    if bigquery.decisions_per_minute is not None and bigquery.wins_per_minute is not None:
        over = duration(bigquery.rate_window_ms or 0)
        rates = f"{bigquery.decisions_per_minute:,.1f} a minute, {bigquery.wins_per_minute:,.1f} of them won"
        parts.append(Text(f"  decisions      {rates} (last {over})"))
    if bigquery.tables:
        freshness = table("Table", "Newest row", numbers=("Newest row",))
        for one in bigquery.tables:
            freshness.add_row(one.name, _ago(status.at_ms, one.newest_ms, f"none for {one.window_hours} h"))
        parts.append(indented(freshness))
    notes = diagnose(status)
    return [*parts, *([Text()] if notes else []), *(Text(f"! {note}", "yellow") for note in notes)]


def _heading(name: str, address: str, problem: str | None) -> Text:
    return Text.assemble((name, "bold"), f" {address}", ("" if problem is None else f"\n  ! {problem}", "red"))


def _flow(status: Status, flow: FlowStatus, *, all_cells: bool) -> list[RenderableType]:
    lag = total_lag(flow.lags)
    behind = f"lag {UNKNOWN if lag is None else f'{lag:,}'}" if flow.lags else f"lag {UNKNOWN}"
    parts: list[RenderableType] = [
        Text(),
        Text.assemble((f"Flow {flow.name}", "bold"), f"  {behind}"),
        *(render_cells(flow.cells, all_of_them=all_cells) if flow.cells else ()),
        *(Text(f"  {one.name}  {_process(status.at_ms, one)}") for one in flow.local),
    ]
    if flow.lags and flow.cells and not all_cells:
        worst = max(flow.lags, key=lambda lag: (lag.records is None, lag.records or 0))
        parts.append(Text(f"  largest lag {_lag(worst)}, in {worst.topic}[{worst.partition}]"))
    elif flow.lags:
        rows = table(
            "Topic", "Partition", "Read up to", "End", "Lag", numbers=("Partition", "Read up to", "End", "Lag")
        )
        for one in flow.lags:
            rows.add_row(one.topic, str(one.partition), _offset(one.committed), _end(one), _lag(one))
        parts.append(indented(rows))
    return parts


def _process(at_ms: int, process: ProcessStatus) -> str:
    store, supervisor = process.store, process.supervisor
    snapshot = (
        f"no recovery store at {store.directory}"
        if store.written_ms is None
        else f"snapshot {_ago(at_ms, store.written_ms, '')}, {size(store.bytes)} in {plural(store.files, 'file')}"
    )
    if supervisor is None:
        return snapshot
    doing = f": {supervisor.doing}" if supervisor.doing else ""
    since = duration(max(0, at_ms - supervisor.since_ms))
    count = supervisor.restart_count
    last = supervisor.last_exit
    # An end that somebody asked for is nothing that it was restarted after.
    why = f", the last time {ended(last)}" if count and last is not None and last.reason is not None else ""
    stage = supervisor.stage.replace("_", " ")
    metrics = f"; {supervisor.metrics}" if supervisor.metrics and is_heard_of(at_ms, supervisor) else ""
    return f"{stage}{doing}, {since}; {plural(count, 'restart')}{why}; {snapshot}{metrics}"


def _offset(offset: int | None) -> str:
    return "never" if offset is None else f"{offset:,}"


def _end(lag: Lag) -> str:
    return f"{'' if lag.is_end_exact else '>= '}{lag.end:,}"


def _lag(lag: Lag) -> str:
    if lag.records is None:
        return UNKNOWN
    return f"{'' if lag.is_end_exact else '>= '}{lag.records:,}"


def _decision(at_ms: int, last: LastDecision | None) -> str:
    if last is None:
        return "none"
    price = ""
    if last.price_micros is not None:
        who = f" by {last.aggregator}" if last.ads == 1 else f", {plural(last.ads, 'ad')}"
        price = f"{who} at {cpm(last.price_micros, last.currency)} CPM"
    return f"{_ago(at_ms, last.decided_ms, '')}: {last.status}{price} on {last.channel_id}"


def _ago(at_ms: int, then_ms: int | None, never: str) -> str:
    return never if then_ms is None else f"{duration(max(0, at_ms - then_ms))} ago"
