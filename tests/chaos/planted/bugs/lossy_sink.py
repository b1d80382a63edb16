"""The sink of BigQuery calls a snapshot done although rows wait in memory, as a buffering `DynamicSink` would."""

from __future__ import annotations

from sinks.bigquery.sink import _TablePart
from tests.chaos.planted.patch import patch

PROMISE = "events_lost"


def plant() -> None:
    """Neither send rows nor wait for them."""
    patch(_TablePart, "snapshot", lambda part: part._loader._ledger.snapshot())
