"""Stateful steps of the warehouse flow."""

from __future__ import annotations

from datastreamx.config import Config
from datastreamx.place import Place
from datastreamx.tables import TABLES
from flows.recovery.steps import log
from flows.recovery.steps.step import Step, versioned
from operators.rollups import counts
from sinks.bigquery import ledger


def steps(config: Config, place: Place) -> tuple[Step, ...]:
    """All of them at a place."""
    return (
        *log.steps("warehouse", config, place),
        versioned("warehouse.rollups.counts", log.partition_keys(config, place), counts.VERSION),
        Step("warehouse.bigquery", frozenset(TABLES), ledger.VERSION, ledger.table_of),
    )
