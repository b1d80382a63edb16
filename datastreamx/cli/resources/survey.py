"""Ask both systems at once; the trouble of one does not hide the other's answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import requests.exceptions

from datastreamx.cli.resources.report import Report, State, SystemReport
from datastreamx.cli.warehouse import short_message
from datastreamx.config import Config
from datastreamx.errors import DatastreamXError, RetryableError
from datastreamx.topics import apply_topics, plan_topics
from sinks.bigquery.client import rest_client
from sinks.bigquery.schema import apply_tables, plan_tables

Changes = Callable[[Config], Sequence[object]]


def plan_everything(config: Config) -> Report:
    """What is missing; changes nothing."""
    return _survey(config, "planned", plan_topics, lambda c: plan_tables(rest_client(c.bigquery), c.bigquery))


def apply_everything(config: Config) -> Report:
    """Make what is missing; doing it again changes nothing."""
    return _survey(config, "changed", apply_topics, lambda c: apply_tables(rest_client(c.bigquery), c.bigquery))


def bigquery_address(config: Config) -> str:
    """The dataset, and where it is if that is not Google."""
    bigquery = config.bigquery
    return f"{bigquery.project}.{bigquery.dataset}" + (
        f" at {bigquery.rest_endpoint}" if bigquery.rest_endpoint else ""
    )


def _survey(config: Config, state: State, topics: Changes, tables: Changes) -> Report:
    with ThreadPoolExecutor(max_workers=2) as pool:
        kafka = pool.submit(_system, "Kafka", config.kafka.bootstrap, state, lambda: topics(config))
        bigquery = pool.submit(_system, "BigQuery", bigquery_address(config), state, lambda: tables(config))
        return Report(kafka=kafka.result(), bigquery=bigquery.result())


def _told(error: DatastreamXError) -> str:
    """Errors of several lines list what has to be repaired; only the client's own are worth shortening."""
    return short_message(error) if isinstance(error.__cause__, requests.exceptions.RequestException) else str(error)


def _system(name: str, address: str, state: State, changes: Callable[[], Sequence[object]]) -> SystemReport:
    try:
        lines = [str(change) for change in changes()]
    except RetryableError as error:
        return SystemReport(name=name, address=address, state="unreachable", problem=_told(error))
    except DatastreamXError as error:
        return SystemReport(name=name, address=address, state="unusable", problem=_told(error))
    return SystemReport(name=name, address=address, state=state if lines else "ready", changes=lines)
