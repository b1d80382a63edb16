from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSource, run_main

from datastreamx.clock import ManualClock
from datastreamx.config.structs import BigQueryConfig
from datastreamx.model.log import Tick
from datastreamx.tables import Table
from sinks.bigquery.loader import LoaderSettings
from sinks.bigquery.sink import BigQuerySink

from .bigquery_model import ROWS, Letters, ModelBigQuery, batch

CONFIG = BigQueryConfig(project="p", dataset="d")
NOW_MS = 1_780_000_000_000


@pytest.fixture
def server() -> ModelBigQuery:
    return ModelBigQuery(ManualClock())


def sink_of(server: ModelBigQuery, tables: Sequence[Table], on_wait: Callable[[], None] = lambda: None) -> BigQuerySink:
    settings = LoaderSettings(linger_s=60.0)
    return BigQuerySink(CONFIG, tables, Letters, settings=settings, connect=lambda: server, on_wait=on_wait)


def ids_by_table(server: ModelBigQuery) -> dict[str, list[int]]:
    return {name.split("/")[5]: stream.ids for name, stream in server.streams.items()}


def test_every_row_reaches_its_own_table(server: ModelBigQuery) -> None:
    names = ["b", "a", "ab", "z10", "z9", "m_1", "m"]
    sink = sink_of(server, [replace(ROWS, name=name) for name in names])
    flow = Dataflow("routing")
    items = [(name, batch([index], time_ms=NOW_MS)) for index, name in enumerate(names)]
    op.output("out", op.input("in", flow, TestingSource(items)), sink)
    run_main(flow)
    assert ids_by_table(server) == {name: [index] for index, name in enumerate(names)}


def test_the_first_snapshot_of_a_worker_sends_the_rows_of_all_its_tables(server: ModelBigQuery) -> None:
    sink = sink_of(server, [replace(ROWS, name=name) for name in ("first", "second")])
    first, second = (sink.build_part("step", name, None) for name in sink.list_parts())
    first.write_batch([batch([1], time_ms=NOW_MS)])
    second.write_batch([batch([2], time_ms=NOW_MS)])
    assert server.streams == {}
    first.snapshot()
    assert server.calls.count("connect") == 2
    second.snapshot()
    assert ids_by_table(server) == {"first": [1], "second": [2]}


def test_the_heart_beats_before_each_table_opens_its_stream(server: ModelBigQuery) -> None:
    sink = sink_of(server, [replace(ROWS, name=name) for name in ("a", "b", "c")], lambda: server.calls.append("beat"))
    parts = [sink.build_part("step", name, None) for name in sink.list_parts()]
    for part in parts:
        part.write_batch([batch([1], time_ms=NOW_MS)])
    parts[0].snapshot()
    creations = [number for number, call in enumerate(server.calls) if call == "create"]
    assert len(creations) == 3
    assert all("beat" in server.calls[before + 1 : after] for before, after in pairwise(creations))


def test_a_tick_shows_only_the_rows_before_the_snapshot_that_it_follows(server: ModelBigQuery) -> None:
    sink = sink_of(server, [ROWS])
    part = sink.build_part("step", ROWS.name, None)
    part.write_batch([batch([1], time_ms=NOW_MS), Tick()])
    part.snapshot()
    part.write_batch([batch([2], time_ms=NOW_MS), Tick(), batch([3], time_ms=NOW_MS)])
    assert server.visible_ids == [1]


def test_closing_waits_for_flushes_under_way(server: ModelBigQuery) -> None:
    part = sink_of(server, [ROWS]).build_part("step", ROWS.name, None)
    part.write_batch([batch([1], time_ms=NOW_MS)])
    part.snapshot()
    part.write_batch([Tick()])
    part.close()
    assert server.visible_ids == [1]
    assert server.calls[-1] == "close"
