"""The dataset that rows are replayed into."""

from __future__ import annotations

from google.cloud import bigquery

from datastreamx.config import BigQueryConfig
from datastreamx.errors import CrashError
from datastreamx.tables import TABLES, Table
from sinks.bigquery.client import NO_RETRY, REST_TIMEOUT_S, as_our_errors, rest_client
from sinks.bigquery.schema import apply_tables

_FIRST_DAY = "1900-01-01"


def make_dataset(config: BigQueryConfig) -> None:
    """Make dataset and tables, as far as they are missing, and check that there is nothing in them yet.

    Raises:
        UnsafeTableError: A table exists in a shape that cannot be used.
        CrashError: A table has rows, or BigQuery refuses.
        RetryableError: BigQuery is unwell.
    """
    client = rest_client(config)
    try:
        apply_tables(client, config)
        filled = [table.name for table in TABLES.values() if _has_rows(client, config, table)]
    finally:
        client.close()  # type: ignore[no-untyped-call] # the library leaves it without annotations
    if filled:
        raise CrashError(
            f"dataset {config.project}.{config.dataset} has rows in {', '.join(filled)}, and a replay would add to "
            "them: name another --dataset, or delete the rows"
        )


def _has_rows(client: bigquery.Client, config: BigQueryConfig, table: Table) -> bool:
    name = f"`{config.project}.{config.dataset}.{table.name}`"
    sql = f"SELECT 1 FROM {name} WHERE {table.partition_by} >= TIMESTAMP '{_FIRST_DAY}' LIMIT 1"  # noqa: S608  our own names
    with as_our_errors(f"look for rows in {name}"):
        job = client.query(sql, retry=NO_RETRY, job_retry=NO_RETRY, timeout=REST_TIMEOUT_S)
        return any(True for _ in job.result(retry=NO_RETRY, job_retry=NO_RETRY, timeout=REST_TIMEOUT_S))
