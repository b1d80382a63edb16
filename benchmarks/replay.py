"""How many hours of traffic does one core replay in a minute?

    python -m benchmarks.replay [--boxes 300000] [--events 2500000] [--turns 3]

Traffic of 300,000 boxes, one event per box and 30 s (10,000 a second), in a real broker, read from its beginning to its
end. Contestants:

consume  consume() alone, which counts. The yardstick
store    `datastreamx replay`: builds the recovery store of the ads flow, and writes the facts. Every opportunity, about
         one per eight events, is found in the log of the decisions
rows     `datastreamx replay --dataset`: all tables anew, up to the rows that go to BigQuery, which are counted

All have one core, and the broker the other one. What is measured is a replay as a whole, from the first question to the
brokers to the last snapshot; only the start of the interpreter and the compiler are not in it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from benchmarks.contest import Contestant, compare, module, tell
from benchmarks.kafka import Measured, run_consume
from benchmarks.kafka_log import FLOW_CORE, GROUPS, PARTITIONS, config_of, filled_broker, log_parser
from benchmarks.machine import Spread
from benchmarks.report import Comparison, Figure, Goal, conclude, report
from datastreamx.config import Config
from datastreamx.model.log import Tick
from datastreamx.place import Place
from datastreamx.topics import apply_topics
from flows import replay as rows_flow
from flows.bench.effort import Effort, Stopwatch
from flows.ports import Process
from flows.ports.replay import rows_ports
from flows.replaying.marker import Order, Request
from flows.replaying.meter import Meter
from flows.replaying.rows import RowsWork
from flows.replaying.run import Work, replay
from flows.replaying.span import Span
from flows.replaying.state import StoreWork
from flows.run import execute
from operators.viewing.warm import warm_up
from simulator.traffic import DESCRIPTION, INTERVAL_MS

CONSUME, STORE, ROWS = "consume", "store", "rows"
FIRST_STORE = "first store"
"""Like `STORE`; not measured: it leaves a decision about each opportunity, as the live flow has."""
DECISIONS = "ad-decisions"
HOUR_S, MINUTE_S = 3_600, 60


class _Rows:
    """Rows that came to the sink of BigQuery."""

    def __init__(self) -> None:
        self.count = 0

    def land(self, items: list[tuple[str, pa.RecordBatch | Tick]]) -> None:
        """Count."""
        self.count += sum(item.num_rows for _, item in items if isinstance(item, pa.RecordBatch))


class _Landing(DynamicSink[tuple[str, pa.RecordBatch | Tick]]):
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _LandingPartition:  # noqa: ARG002  Bytewax's own
        return _LandingPartition(self._rows)


class _LandingPartition(StatelessSinkPartition[tuple[str, pa.RecordBatch | Tick]]):
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    def write_batch(self, items: list[tuple[str, pa.RecordBatch | Tick]]) -> None:
        self._rows.land(items)


class _CountedRows(RowsWork):
    """Rows anew, without a dataset."""

    def __init__(self, config: Config, rows: _Rows) -> None:
        super().__init__(config, "replayed")
        self._rows = rows

    def prepare(self) -> None:
        """No dataset has to be made."""

    def run(self, process: Process, span: Span, meter: Meter) -> None:
        """Read to the end of the span."""
        ports = replace(rows_ports(process, span, self._bigquery, meter), bigquery=_Landing(self._rows))
        execute(rows_flow.build(self._config, ports), self.site.open(), self._config.recovery.epoch_ms)


@contextmanager
def _unwatched(meter: Meter) -> Iterator[None]:  # noqa: ARG001  nobody looks
    yield


def _replay(config: Config, work: Work) -> Effort:
    warm_up()
    order = Order(Request(begin="beginning"), Span(from_ms=None, until_ms=time.time_ns() // 1_000_000))
    watch = Stopwatch()
    summary = replay(config, Place(), work, order, _unwatched)
    return watch.effort(
        summary.events_read, {"decisions_reused": summary.decisions_reused, "decisions_new": summary.decisions_expired}
    )


def _replay_rows(config: Config, count: int) -> Effort:
    rows = _Rows()
    effort = _replay(config, _CountedRows(config, rows))
    if rows.count < count:
        raise SystemExit(f"{count:,} events led to only {rows.count:,} rows")
    return effort


def _consume(config: Config, count: int) -> Effort:
    measured = Measured(1, count)
    run_consume(config, measured)
    return measured.effort()


_RUN: dict[str, Callable[[Config, int], Effort]] = {
    CONSUME: _consume,
    STORE: lambda config, _: _replay(config, StoreWork(config, Place())),
    ROWS: _replay_rows,
}


def _play(options: argparse.Namespace) -> None:
    """Be one contestant."""
    with tempfile.TemporaryDirectory(prefix="datastreamx-bench-") as folder:
        config = config_of(options.bootstrap, Path(folder), f"-{os.getpid()}", DECISIONS)
        apply_topics(config)
        name = STORE if options.contestant == FIRST_STORE else options.contestant
        tell(_RUN[name](config, options.events))


def _hours_per_minute(per_s: Spread, boxes: int) -> Spread:
    share = MINUTE_S / HOUR_S / _traffic_per_s(boxes)
    return Spread(per_s.median * share, per_s.lowest * share, per_s.highest * share, per_s.rounds)


def _traffic_per_s(boxes: int) -> float:
    return boxes * 1_000 / INTERVAL_MS


def main() -> int:
    """Measure and print."""
    options = log_parser("benchmarks.replay", __doc__ or "").parse_args()
    if options.contestant:
        _play(options)
        return 0
    if options.quick:
        options.boxes, options.events, options.turns = 10_000, 60_000, 1
    with (
        tempfile.TemporaryDirectory(prefix="datastreamx-bench-") as folder,
        filled_broker(Path(folder), options.boxes, options.events) as bootstrap,
    ):
        arguments = ("--bootstrap", bootstrap, "--events", str(options.events))

        def contestant(name: str) -> Contestant:
            return Contestant(name, module("benchmarks.replay", "--contestant", name, *arguments), FLOW_CORE)

        compare([contestant(FIRST_STORE)], 1, FIRST_STORE)
        standings = compare([contestant(name) for name in _RUN], options.turns, CONSUME)
    comparison = Comparison(f"{options.boxes:,} boxes", "events", CONSUME, standings)
    live_per_s = _traffic_per_s(options.boxes)
    conclude(
        report(
            question="replay",
            asks="How many hours of traffic does one core replay in a minute?",
            command="python -m benchmarks.replay" + (" --quick" if options.quick else ""),
            data=f"{DESCRIPTION}; {PARTITIONS} partitions of {GROUPS} key groups",
            comparisons=[comparison],
            figures=[
                Figure(f"{name}: traffic replayed", "hours per minute", _hours_per_minute(found.per_s, options.boxes))
                for name in (STORE, ROWS)
                for found in [comparison.of(name)]
            ],
            goals=[
                Goal(f"{name}: times as fast as it came", 30.0, comparison.of(name).per_s.median / live_per_s)
                for name in (STORE, ROWS)
            ],
        ),
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
