"""What is known of a running service, and what is wrong with it. Pure."""

from __future__ import annotations

import msgspec

from datastreamx.cli.format import duration, plural
from datastreamx.cli.output import Exit

STALE_STORE_MS = 60_000
"""A running flow writes a snapshot each `recovery.epoch_ms`, at most a minute."""

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


class FlowStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One of the flows."""

    name: str
    group: str
    lags: list[Lag]
    store: Store


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


class KafkaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the brokers tell.

    Attributes:
        problem: Why they tell nothing.
        is_unreachable: They do not answer; else they answer that something is missing.
        newest_event_ms: Kafka time of the newest record of box-events.
        dead_letters: Records held in the dead-letter topic, at least.
    """

    address: str
    problem: str | None = None
    is_unreachable: bool = False
    lags: dict[str, list[Lag]] = {}
    newest_event_ms: int | None = None
    last_decision: LastDecision | None = None
    dead_letters: int | None = None


class TableStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One table. `newest_ms` is unset when nothing landed within `window_hours`."""

    name: str
    newest_ms: int | None
    window_hours: int


class BigQueryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What BigQuery tells; `problem` says why it tells nothing. Decisions are counted over `RATE_MINUTES`."""

    address: str
    problem: str | None = None
    is_unreachable: bool = False
    tables: list[TableStatus] = []
    decisions_per_minute: float | None = None
    wins_per_minute: float | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, at one moment."""

    at_ms: int
    kafka: KafkaStatus
    bigquery: BigQueryStatus
    flows: list[FlowStatus]


def exit_code(status: Status) -> Exit:
    """Unreachable before unusable; a lag is no failure."""
    systems = (status.kafka, status.bigquery)
    if any(system.is_unreachable for system in systems):
        return Exit.UNREACHABLE
    return Exit.FAILED if any(system.problem is not None for system in systems) else Exit.OK


def diagnose(status: Status) -> list[str]:
    """What deserves attention, one line each with what to do."""
    notes = [note for flow in status.flows for note in _flow_notes(status, flow)]
    last = status.kafka.last_decision
    landed = next((table.newest_ms for table in status.bigquery.tables if table.name == "ad_decisions"), None)
    if last is not None and status.bigquery.problem is None:
        behind_ms = last.decided_ms - landed if landed is not None else status.at_ms - last.decided_ms
        if behind_ms > STALE_WAREHOUSE_MS:
            notes.append(
                f"BigQuery lacks the last {duration(behind_ms)} of decisions: is `datastreamx run warehouse` running?"
            )
    if status.kafka.dead_letters:
        letters = plural(status.kafka.dead_letters, "record")
        notes.append(f"{letters} set aside in the dead-letter topic; each carries its reason in a header")
    return notes


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
    written_ms = flow.store.written_ms
    if written_ms is not None and status.at_ms - written_ms > STALE_STORE_MS:
        notes.append(
            f"{flow.name} wrote its last snapshot here {duration(status.at_ms - written_ms)} ago: is it running?"
        )
    return notes


def as_json(status: Status) -> dict[str, object]:
    """The status with what follows from it: lags, ages and notes."""
    plain: dict[str, object] = msgspec.to_builtins(status)
    flows = [
        {
            **msgspec.to_builtins(flow),
            "lags": [{**msgspec.to_builtins(lag), "records": lag.records} for lag in flow.lags],
            "lag_records": total_lag(flow.lags),
            "snapshot_age_ms": _age(status.at_ms, flow.store.written_ms),
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
    return {**plain, "kafka": kafka, "bigquery": bigquery, "flows": flows, "notes": diagnose(status)}


def total_lag(lags: list[Lag]) -> int | None:
    """Records not read yet in all partitions; unknown if one is."""
    known = [lag.records for lag in lags]
    return None if None in known or not known else sum(records or 0 for records in known)


def _age(at_ms: int, then_ms: int | None) -> int | None:
    return None if then_ms is None else max(0, at_ms - then_ms)
