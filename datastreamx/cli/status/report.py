"""What is known of a running service, and what is wrong with it. Pure."""

from __future__ import annotations

import msgspec

from datastreamx.cli.format import duration, plural
from datastreamx.cli.output import Exit
from datastreamx.cli.status.cells import (
    FLAPPING,
    STALE_STORE_MS,
    Cell,
    cell_notes,
    ended,
    is_heard_of,
    is_silent,
    trouble,
    version_note,
    versions,
)
from datastreamx.supervisor import Status as Supervision

STALE_WAREHOUSE_MS = 60_000


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """One flow in one partition.

    Attributes:
        committed: Next offset to read, as the flow showed it with its last snapshot; unset if it never did.
        end: One past the newest record; a lower bound unless `is_end_exact`.
    """

    topic: str
    partition: int
    committed: int | None
    end: int
    is_end_exact: bool

    @property
    def records(self) -> int | None:
        """Unknown rather than wrong: no offset was committed, or it lies beyond what can be seen of the log."""
        if self.committed is None or self.committed > self.end:
            return None
        return self.end - self.committed


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """A recovery store on this machine.

    Attributes:
        written_ms: When its files were last written; unset if there are none here.
    """

    directory: str
    files: int
    bytes: int
    written_ms: int | None


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of a flow, or one process of its cluster, on this machine.

    Attributes:
        name: Flow and ordinal, the name of its store.
        supervisor: What its supervisor wrote last; unset if none did.
        refusal: Why its store was set aside, until somebody has decided what is to become of it.
    """

    name: str
    store: Store
    supervisor: Supervision | None = None
    refusal: str | None = None


class FlowStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One of the flows.

    Attributes:
        lags: Those of all its processes, wherever they run.
        processes: Those that left a trace on this machine.
        cells: All of them, asked at `metrics.peers`; empty if that is unset.
    """

    name: str
    group: str
    lags: list[Lag]
    processes: list[ProcessStatus]
    cells: list[Cell] = []

    @property
    def local(self) -> list[ProcessStatus]:
        """Processes of which only this machine tells something: the others have answered for themselves."""
        answered = {cell.name for cell in self.cells if cell.supervisor is not None}
        return [one for one in self.processes if one.name not in answered or one.refusal is not None]


class LastDecision(msgspec.Struct, frozen=True, kw_only=True):
    """The newest record of ad-decisions.

    Attributes:
        aggregator: Of the first ad.
        price_micros: CPM of all ads together.
    """

    auction_id: str
    decided_ms: int
    status: str
    channel_id: str
    ads: int
    aggregator: str | None
    price_micros: int | None
    currency: str | None


class DeadLetterReason(msgspec.Struct, frozen=True, kw_only=True):
    """Records that were set aside for one reason.

    Attributes:
        records: Among those that were looked at.
        newest_ms: Kafka time of the newest one.
    """

    reason: str
    records: int
    newest_ms: int


class KafkaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the brokers tell.

    Attributes:
        problem: Why they tell nothing.
        is_unreachable: They do not answer; else they answer that something is missing.
        newest_event_ms: Kafka time of the newest record of box-events.
        dead_letters: Records held in the dead-letter topic, at least.
        dead_letter_reasons: Why, the most frequent first; of the newest, if there are too many to look at all.
    """

    address: str
    problem: str | None = None
    is_unreachable: bool = False
    lags: dict[str, list[Lag]] = {}
    newest_event_ms: int | None = None
    last_decision: LastDecision | None = None
    dead_letters: int | None = None
    dead_letter_reasons: list[DeadLetterReason] = []


class TableStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One table. `newest_ms` is unset when nothing landed within `window_hours`."""

    name: str
    newest_ms: int | None
    window_hours: int


class BigQueryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What BigQuery tells; `problem` says why it tells nothing.

    Attributes:
        rate_window_ms: Over which decisions were counted; shorter while the first one is not that old.
    """

    address: str
    problem: str | None = None
    is_unreachable: bool = False
    tables: list[TableStatus] = []
    decisions_per_minute: float | None = None
    wins_per_minute: float | None = None
    rate_window_ms: int | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, at one moment.

    Attributes:
        replacing: That a rescale or a restore on this machine was interrupted, or is under way, and what finishes it.
    """

    at_ms: int
    kafka: KafkaStatus
    bigquery: BigQueryStatus
    flows: list[FlowStatus]
    replacing: str | None = None

    @property
    def cells(self) -> list[Cell]:
        """Of all flows."""
        return [cell for flow in self.flows for cell in flow.cells]


def exit_code(status: Status) -> Exit:
    """Unreachable before unusable; a lag is no failure."""
    systems = (status.kafka, status.bigquery)
    if any(system.is_unreachable for system in systems) or any(cell.supervisor is None for cell in status.cells):
        return Exit.UNREACHABLE
    return Exit.FAILED if any(system.problem is not None for system in systems) else Exit.OK


def diagnose(status: Status) -> list[str]:
    """What deserves attention, one line each with what to do."""
    # First: as long as it lasts, nothing else that is advised here can be done.
    notes = [] if status.replacing is None else [f"{status.replacing}; no flow starts before"]
    notes += [note for flow in status.flows for note in _flow_notes(status, flow)]
    mixed = version_note(status.cells)
    notes += [] if mixed is None else [mixed]
    last = status.kafka.last_decision
    landed = next((table.newest_ms for table in status.bigquery.tables if table.name == "ad_decisions"), None)
    if last is not None and status.bigquery.problem is None:
        behind_ms = last.decided_ms - landed if landed is not None else status.at_ms - last.decided_ms
        if behind_ms > STALE_WAREHOUSE_MS:
            notes.append(
                f"BigQuery lacks the last {duration(behind_ms)} of decisions: is `datastreamx run warehouse` running?"
            )
    if status.kafka.dead_letters:
        notes.append(_dead_letters_note(status.at_ms, status.kafka.dead_letters, status.kafka.dead_letter_reasons))
    return notes


def _dead_letters_note(at_ms: int, held: int, reasons: list[DeadLetterReason]) -> str:
    head = f"{plural(held, 'record')} set aside in the dead-letter topic"
    if not reasons:
        return f"{head}; each carries its reason in a header"
    looked_at = sum(one.records for one in reasons)
    of = "" if looked_at >= held else f" (of {looked_at:,} of the newest)"
    told = ", ".join(f"{one.reason} {one.records:,} (last {_ago(at_ms, one.newest_ms)})" for one in reasons)
    return f"{head}{of}: {told}"


def _flow_notes(status: Status, flow: FlowStatus) -> list[str]:
    notes = []
    if flow.lags and all(lag.committed is None for lag in flow.lags):
        notes.append(f"{flow.name} never showed its progress: start it with `datastreamx run {flow.name}`")
    ahead = [lag for lag in flow.lags if lag.committed is not None and lag.committed > lag.end]
    exact = [f"{lag.topic}[{lag.partition}]" for lag in ahead if lag.is_end_exact]
    if exact:
        notes.append(
            f"{flow.name} has read further than {', '.join(exact)} reaches: the topic was made anew, or lost records"
        )
    notes += cell_notes(flow.name, flow.cells)
    return [*notes, *(note for one in flow.local for note in _process_notes(status.at_ms, flow.name, one))]


def _process_notes(at_ms: int, flow: str, process: ProcessStatus) -> list[str]:
    supervisor, name = process.supervisor, process.name
    if process.refusal is not None:
        return [
            f"the store of {name} was refused, and nothing starts in its place: {process.refusal}; see "
            "`Lost or damaged recovery store` in docs/runbook.md"
        ]
    if supervisor is None:
        return _store_notes(at_ms, process)
    start = f"`datastreamx run {flow}`"
    if supervisor.stage == "stopped":
        return [f"{name} was stopped {_ago(at_ms, supervisor.since_ms)}: start it with {start}"]
    if supervisor.stage == "given_up":
        how = ended(supervisor.last_exit)
        return [f"{name} gave up {_ago(at_ms, supervisor.since_ms)}: {how}; read its log, then start {start} again"]
    if not is_heard_of(at_ms, supervisor):
        return [
            f"{name} was last heard of {_ago(at_ms, supervisor.at_ms)}: its supervisor is gone, start {start} again"
        ]
    notes = []
    if supervisor.recent_failures >= FLAPPING:
        how = ended(supervisor.last_exit)
        notes.append(f"{name} fails again and again, {supervisor.recent_failures} times lately; the last time {how}")
    if is_silent(supervisor):
        silent = duration(supervisor.report_age_ms or 0)
        notes.append(f"the worker of {name} has been silent for {silent}: it hangs, or its machine does")
    return notes or (_store_notes(at_ms, process) if supervisor.stage == "running" else [])


def _store_notes(at_ms: int, process: ProcessStatus) -> list[str]:
    written_ms = process.store.written_ms
    if written_ms is None or at_ms - written_ms <= STALE_STORE_MS:
        return []
    return [f"{process.name} wrote its last snapshot here {_ago(at_ms, written_ms)}: is it running?"]


def _ago(at_ms: int, then_ms: int) -> str:
    return f"{duration(max(0, at_ms - then_ms))} ago"


def as_json(status: Status) -> dict[str, object]:
    """The status with what follows from it: lags, ages and notes."""
    plain: dict[str, object] = msgspec.to_builtins(status)
    flows = [
        {
            **msgspec.to_builtins(flow),
            "lags": [{**msgspec.to_builtins(lag), "records": lag.records} for lag in flow.lags],
            "lag_records": total_lag(flow.lags),
            "processes": [
                {**msgspec.to_builtins(one), "snapshot_age_ms": _age(status.at_ms, one.store.written_ms)}
                for one in flow.processes
            ],
            "cells": [_cell(cell) for cell in flow.cells],
        }
        for flow in status.flows
    ]
    kafka: dict[str, object] = msgspec.to_builtins(status.kafka)
    # The flows carry them.
    del kafka["lags"]
    tables = [
        {**msgspec.to_builtins(table), "age_ms": _age(status.at_ms, table.newest_ms)}
        for table in status.bigquery.tables
    ]
    bigquery = {**msgspec.to_builtins(status.bigquery), "tables": tables}
    return {
        **plain,
        "kafka": kafka,
        "bigquery": bigquery,
        "flows": flows,
        "versions": versions(status.cells),
        "notes": diagnose(status),
    }


def _cell(cell: Cell) -> dict[str, object]:
    what = trouble(cell)
    return {
        **msgspec.to_builtins(cell),
        "snapshot_age_ms": cell.snapshot_age_ms,
        "trouble": None if what is None else msgspec.to_builtins(what),
    }


def total_lag(lags: list[Lag]) -> int | None:
    """Records not read yet in all partitions; unknown if one is."""
    known = [lag.records for lag in lags]
    return None if None in known or not known else sum(records or 0 for records in known)


def _age(at_ms: int, then_ms: int | None) -> int | None:
    return None if then_ms is None else max(0, at_ms - then_ms)
