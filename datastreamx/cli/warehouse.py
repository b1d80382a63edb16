"""Questions to BigQuery, for all commands: one dataset, one attempt, errors in one line."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import requests.exceptions
from google.api_core import exceptions
from google.cloud import bigquery

from datastreamx.cli.format import one_line
from datastreamx.config import BigQueryConfig
from datastreamx.errors import CrashError, DatastreamXError, RetryableError
from sinks.bigquery.client import NO_RETRY, REST_TIMEOUT_S, as_our_errors, rest_client

Parameter = str | int | datetime | tuple[str, ...]
Row = tuple[Any, ...]

_GIB = 1 << 30


@dataclass(frozen=True)
class Answer:
    """Rows of a query.

    Attributes:
        rows: Values in column order.
        is_cut: There are more rows than were asked for.
        bytes_processed: What an on-demand project pays for; the local BigQuery says 0.
        changed: Rows that a DELETE, UPDATE, INSERT or MERGE has changed.
    """

    columns: tuple[str, ...]
    rows: list[Row]
    is_cut: bool
    bytes_processed: int
    changed: int = 0

    @property
    def records(self) -> list[dict[str, Any]]:
        """Rows by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Warehouse:
    """The configured dataset.

    Args:
        timeout_s: Longest that a query may take.

    Raises:
        CrashError: There are no credentials.
    """

    def __init__(self, config: BigQueryConfig, *, timeout_s: float = 60.0) -> None:
        self._dataset = bigquery.DatasetReference(config.project, config.dataset)
        self._timeout_s = timeout_s
        with _short_errors():
            self._client = rest_client(config)

    def ask(
        self,
        sql: str,
        parameters: Mapping[str, Parameter] | None = None,
        *,
        rows_max: int | None = None,
        gib_max: int | None = None,
    ) -> Answer:
        """Run a query; table names without a dataset mean the configured one.

        Args:
            sql: GoogleSQL.
            parameters: Values of `@name`.
            rows_max: Most rows to fetch.
            gib_max: A query that would be billed for more is refused by BigQuery, free of charge.

        Raises:
            RetryableError: BigQuery is unwell, or the query takes longer than the time-out.
            CrashError: BigQuery refuses the query; the message is its reason in one line.
        """
        job_config = bigquery.QueryJobConfig(
            default_dataset=self._dataset,
            query_parameters=[_parameter(name, value) for name, value in (parameters or {}).items()],
        )
        if gib_max is not None:
            job_config.maximum_bytes_billed = gib_max * _GIB
        with _short_errors():
            job = self._client.query(
                sql, job_config=job_config, retry=NO_RETRY, job_retry=NO_RETRY, timeout=REST_TIMEOUT_S
            )
            try:
                # One row more than wanted tells whether there are more.
                found = job.result(
                    max_results=None if rows_max is None else rows_max + 1,
                    retry=NO_RETRY,
                    job_retry=NO_RETRY,
                    timeout=self._timeout_s,
                )
                rows = [tuple(row.values()) for row in found]
            except concurrent.futures.TimeoutError:
                with contextlib.suppress(exceptions.GoogleAPICallError):
                    job.cancel(retry=NO_RETRY, timeout=REST_TIMEOUT_S)
                raise RetryableError(
                    f"the query took longer than {self._timeout_s:g} s and was cancelled; let it read less"
                ) from None
        return Answer(
            columns=tuple(field.name for field in found.schema),
            rows=rows[:rows_max],
            is_cut=rows_max is not None and len(rows) > rows_max,
            bytes_processed=int(job.total_bytes_processed or 0),
            changed=int(job.num_dml_affected_rows or 0),
        )

    def time_travel_hours(self) -> int | None:
        """For how long deleted rows can be read again; unset if BigQuery does not tell.

        Raises:
            RetryableError: BigQuery is unwell.
            CrashError: It refuses.
        """
        with _short_errors():
            dataset = self._client.get_dataset(self._dataset, retry=NO_RETRY, timeout=REST_TIMEOUT_S)
        hours = dataset.max_time_travel_hours
        return None if hours is None else int(hours)


@contextlib.contextmanager
def _short_errors() -> Iterator[None]:
    try:
        with as_our_errors("ask BigQuery"):
            yield
    except (RetryableError, CrashError) as error:
        raise type(error)(short_message(error)) from error


def short_message(error: DatastreamXError) -> str:
    """An error of the BigQuery client in one line.

    The library's messages repeat themselves over several lines, quote its URLs and name job ids.
    """
    cause = error.__cause__
    if isinstance(cause, exceptions.ClientError) and not isinstance(cause, exceptions.Forbidden) and cause.errors:
        reason = cause.errors[0]
        if isinstance(reason, dict) and reason.get("message"):
            return f"BigQuery refuses: {one_line(str(reason['message']))}"
    if isinstance(cause, requests.exceptions.ConnectionError):
        return f"BigQuery does not answer ({_root_reason(cause)}); `datastreamx doctor` tells more"
    return one_line(str(error))


def _root_reason(error: BaseException) -> str:
    reason = ""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return reason or one_line(str(error))


def _parameter(name: str, value: Parameter) -> bigquery.ScalarQueryParameter | bigquery.ArrayQueryParameter:
    match value:
        case tuple():
            return bigquery.ArrayQueryParameter(name, "STRING", list(value))
        case datetime():
            return bigquery.ScalarQueryParameter(name, "TIMESTAMP", value)
        case int():
            return bigquery.ScalarQueryParameter(name, "INT64", value)
        case str():
            return bigquery.ScalarQueryParameter(name, "STRING", value)
