"""Tables in BigQuery: what is missing, what can be added, and what must not be used as it stands.

A table that is not partitioned, clustered and protected by a required partition filter turns every careless query into
a bill for the whole table, so the flow refuses to write to one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from google.api_core.exceptions import NotFound
from google.cloud import bigquery

from datastreamx.config.structs import BigQueryConfig
from datastreamx.errors import UnsafeTableError
from datastreamx.tables import TABLES, Column, Table
from sinks.bigquery.client import NO_RETRY, REST_TIMEOUT_S, as_our_errors

# The REST API still answers with the names of legacy SQL.
_STANDARD_TYPES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}


class ChangeKind(Enum):
    """What `apply_tables` does."""

    CREATE_DATASET = "create dataset"
    CREATE_TABLE = "create table"
    ADD_COLUMNS = "add columns"


@dataclass(frozen=True, slots=True)
class Change:
    """One step towards the wanted state. `table` is unset for the dataset; `columns` name what is added."""

    kind: ChangeKind
    target: str
    table: Table | None = None
    columns: tuple[Column, ...] = ()

    def __str__(self) -> str:
        names = f": {', '.join(column.name for column in self.columns)}" if self.columns else ""
        return f"{self.kind.value} {self.target}{names}"


def fields(columns: Iterable[Column]) -> list[bigquery.SchemaField]:
    """BigQuery schema of columns."""
    return [
        bigquery.SchemaField(c.name, c.kind.bigquery, "REQUIRED" if c.required else "NULLABLE", None, c.description)
        for c in columns
    ]


def wanted_table(table: Table, dataset: bigquery.DatasetReference) -> bigquery.Table:
    """The table as it has to be created."""
    wanted = bigquery.Table(dataset.table(table.name), fields(table.columns))
    wanted.description = table.description
    wanted.time_partitioning = bigquery.TimePartitioning(bigquery.TimePartitioningType.DAY, table.partition_by)
    wanted.clustering_fields = list(table.cluster_by)
    wanted.require_partition_filter = True
    return wanted


def plan_tables(
    client: bigquery.Client,
    config: BigQueryConfig,
    tables: Iterable[Table] = tuple(TABLES.values()),
    *,
    on_wait: Callable[[], None] = lambda: None,
) -> list[Change]:
    """Changes that bring the dataset to the wanted state, in the order in which they have to be made.

    Args:
        client: As from `client.rest_client`.
        config: Names the dataset.
        tables: What has to be there.
        on_wait: Called before each question, for a heartbeat; an answer may take `REST_TIMEOUT_S`.

    Raises:
        UnsafeTableError: A table exists in a shape that cannot be changed; lists every problem with its remedy.
        RetryableError: BigQuery is unwell.
        CrashError: BigQuery refuses the calls.
    """
    dataset = bigquery.DatasetReference(config.project, config.dataset)
    changes: list[Change] = []
    problems: list[str] = []
    if not _dataset_exists(client, dataset):
        changes.append(Change(ChangeKind.CREATE_DATASET, _name(dataset)))
    for table in tables:
        on_wait()
        target = f"{_name(dataset)}.{table.name}"
        found = None if changes[:1] and changes[0].table is None else _find(client, dataset.table(table.name))
        if found is None:
            changes.append(Change(ChangeKind.CREATE_TABLE, target, table))
            continue
        problems += [f"{target}: {problem}" for problem in _problems(table, found, target)]
        present = {field.name for field in found.schema}
        added = tuple(c for c in table.columns if c.name not in present and not c.required)
        if added:
            changes.append(Change(ChangeKind.ADD_COLUMNS, target, table, added))
    if problems:
        raise UnsafeTableError(_listed("BigQuery tables cannot be used as they are", problems))
    return changes


def apply_tables(
    client: bigquery.Client, config: BigQueryConfig, tables: Iterable[Table] = tuple(TABLES.values())
) -> list[Change]:
    """Make the planned changes; returns them. Doing it again, or in two processes at once, changes nothing more.

    Raises:
        UnsafeTableError: See `plan_tables`; nothing was changed.
        RetryableError: BigQuery is unwell; what was done stays done.
        CrashError: BigQuery refuses a change.
    """
    dataset = bigquery.DatasetReference(config.project, config.dataset)
    changes = plan_tables(client, config, tables)
    for change in changes:
        with as_our_errors(str(change)):
            if change.table is None:
                created = bigquery.Dataset(dataset)
                created.location = config.location
                client.create_dataset(created, exists_ok=True, retry=NO_RETRY, timeout=REST_TIMEOUT_S)
            elif change.kind is ChangeKind.CREATE_TABLE:
                wanted = wanted_table(change.table, dataset)
                client.create_table(wanted, exists_ok=True, retry=NO_RETRY, timeout=REST_TIMEOUT_S)
            else:
                _add_columns(client, dataset.table(change.table.name), change.columns)
    return changes


def check_tables(
    client: bigquery.Client,
    config: BigQueryConfig,
    tables: Iterable[Table] = tuple(TABLES.values()),
    *,
    on_wait: Callable[[], None] = lambda: None,
) -> None:
    """Refuse to start unless every table is in the wanted state. Changes nothing. Arguments as for `plan_tables`.

    Raises:
        UnsafeTableError: Something is missing or cannot be used; lists all of it.
        RetryableError: BigQuery is unwell.
        CrashError: BigQuery refuses the calls.
    """
    changes = plan_tables(client, config, tables, on_wait=on_wait)
    if changes:
        missing = [f"missing: {change}" for change in changes]
        raise UnsafeTableError(_listed("BigQuery is not ready; run `datastreamx apply`", missing))


def _dataset_exists(client: bigquery.Client, dataset: bigquery.DatasetReference) -> bool:
    with as_our_errors(f"look up dataset {_name(dataset)}"):
        try:
            client.get_dataset(dataset, retry=NO_RETRY, timeout=REST_TIMEOUT_S)
        except NotFound:
            return False
    return True


def _find(client: bigquery.Client, table: bigquery.TableReference) -> bigquery.Table | None:
    with as_our_errors(f"look up table {table}"):
        try:
            return client.get_table(table, retry=NO_RETRY, timeout=REST_TIMEOUT_S)
        except NotFound:
            return None


def _add_columns(client: bigquery.Client, table: bigquery.TableReference, columns: tuple[Column, ...]) -> None:
    """Add columns under optimistic locking, so that no other change to the schema is undone."""
    found = client.get_table(table, retry=NO_RETRY, timeout=REST_TIMEOUT_S)
    present = {field.name for field in found.schema}
    found.schema = [*found.schema, *fields(c for c in columns if c.name not in present)]
    client.update_table(found, ["schema"], retry=NO_RETRY, timeout=REST_TIMEOUT_S)


def _problems(table: Table, found: bigquery.Table, target: str) -> list[str]:
    """Everything about an existing table that cannot be repaired by adding columns."""
    problems = []
    recreate = f"copy its rows away, drop it, run `datastreamx apply` and load them again (`bq cp {target} ...`)"
    partitioning = found.time_partitioning
    if partitioning is None or partitioning.type_ != "DAY" or partitioning.field != table.partition_by:
        problems.append(f"is not partitioned by day of {table.partition_by}; {recreate}")
    if tuple(found.clustering_fields or ()) != table.cluster_by:
        wanted = ",".join(table.cluster_by)
        problems.append(f"is not clustered by {wanted}; run `bq update --clustering_fields={wanted} {target}`")
    if not found.require_partition_filter:
        problems.append(f"does not require a partition filter; run `bq update --require_partition_filter {target}`")
    present = {field.name: field for field in found.schema}
    for column in table.columns:
        field = present.pop(column.name, None)
        if field is None:
            if column.required:
                problems.append(f"lacks the required column {column.name}, which cannot be added later; {recreate}")
            continue
        kind = _STANDARD_TYPES.get(field.field_type, field.field_type)
        if kind != column.kind.bigquery or field.mode == "REPEATED":
            wrong = f"{field.mode} {kind}"
            problems.append(f"has {column.name} as {wrong} instead of {column.kind.bigquery}; {recreate}")
        elif field.mode == "REQUIRED" and not column.required:
            relax = f"ALTER TABLE `{target}` ALTER COLUMN {column.name} DROP NOT NULL"
            problems.append(f"requires {column.name}, which may be missing; run `{relax}`")
    problems.extend(
        f"requires the unknown column {field.name}; run `ALTER TABLE `{target}` DROP COLUMN {field.name}`"
        for field in present.values()
        if field.mode == "REQUIRED"
    )
    return problems


def _name(dataset: bigquery.DatasetReference) -> str:
    return f"{dataset.project}.{dataset.dataset_id}"


def _listed(title: str, lines: list[str]) -> str:
    return "\n".join([f"{title}:", *(f"  - {line}" for line in lines)])
