"""Runs the demo: start, watch, let it end, audit."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.live import Live
from rich.text import Text

from datastreamx.cli.demo.audit import Summary, Warehouse, gather, summarize
from datastreamx.cli.demo.stack import Stack
from datastreamx.cli.options import FlowName
from datastreamx.cli.output import emit, is_interactive, say, stderr
from datastreamx.cli.terminal import show
from simulator.fleet.ledger import Ledger, read_ledger
from sinks.bigquery.client import rest_client

Show = Callable[[str], None]

_TICK_S = 1.0
_SETTLE_LIMIT_S = 90.0
_SETTLE_POLL_S = 0.5


@dataclass(frozen=True)
class DemoOptions:
    """What can be chosen on the command line; durations in seconds, `None` runs until Ctrl-C."""

    duration_s: float | None
    boxes: int
    seed: int
    speed_up: float
    faults: str
    kill_worker: bool
    directory: Path | None
    json: bool


class _Watch:
    """What the live line shows, gathered once a second, and the ages of rows on the way."""

    def __init__(self, stack: Stack, warehouse: Warehouse) -> None:
        self._stack = stack
        self._warehouse = warehouse
        self._last = (time.monotonic(), 0)
        self.row_ages_s: list[float] = []
        self.first_s: dict[str, float] = {}

    def line(self, elapsed_s: float) -> str:
        """One line for people."""
        ledger = self._ledger()
        if ledger and ledger.pushes.distinct:
            self.first_s.setdefault("push", round(elapsed_s, 1))
        newest_ms = self._warehouse.newest_event_ms()
        age = "waiting for the first rows"
        if newest_ms is not None:
            self.first_s.setdefault("row", round(elapsed_s, 1))
            self.row_ages_s.append(time.time() - newest_ms / 1000)
            age = f"newest row {self.row_ages_s[-1]:.1f} s old"
        restarts = sum(flow.restarts for flow in self._stack.flows.values())
        return (
            f"{int(elapsed_s) // 60:02d}:{int(elapsed_s) % 60:02d}  {self._rate(ledger):,.0f} events/s   "
            f"{ledger.pushes.distinct if ledger else 0:,} ads pushed   "
            f"{ledger.displays_reported if ledger else 0:,} shown   {age}   {restarts} restarts"
        )

    def _ledger(self) -> Ledger | None:
        path = self._stack.ledger_path
        return read_ledger(path) if path.exists() else None

    def _rate(self, ledger: Ledger | None) -> float:
        now_s, events = time.monotonic(), ledger.events if ledger else 0
        last_s, last_events = self._last
        self._last = (now_s, events)
        return (events - last_events) / max(now_s - last_s, 0.001)


def run_demo(options: DemoOptions) -> Summary:
    """The whole demo; prints the greeting and the live line on standard error, the summary on standard output.

    Raises:
        DatastreamXError: Something could not be started or keeps crashing.
    """
    with _interruptible() as interrupted, _directory(options) as directory:
        started_s = time.monotonic()
        say("Starting broker, BigQuery, aggregators, flows and boxes; everything on this machine ...")
        stack = Stack(directory, options.boxes, options.seed, options.speed_up, options.faults)
        with stack:
            _greet(stack, options)
            warehouse = Warehouse(rest_client(stack.config.bigquery), stack.config)
            watch = _Watch(stack, warehouse)
            _watch(stack, watch, options, interrupted, started_s)
            say("Stopping the boxes and waiting for the last rows ...")
            summary = end_and_audit(stack, warehouse, watch.row_ages_s, watch.first_s)
    if options.json:
        emit(summary)
    else:
        show(*map(Text, summary_lines(summary)))
    return summary


def end_and_audit(stack: Stack, warehouse: Warehouse, row_ages_s: list[float], first_s: dict[str, float]) -> Summary:
    """Let the boxes finish, wait until all they have caused is there, count it, and stop the flows.

    Args:
        stack: Running.
        warehouse: Asks its BigQuery.
        row_ages_s: Ages of the newest row that were seen on the way.
        first_s: When the first push and the first row were seen.
    """
    stack.stop_fleet()
    ledger = read_ledger(stack.ledger_path)
    _wait_for_rows(stack, warehouse, ledger)
    restarts = {str(name): flow.restarts for name, flow in stack.flows.items()}
    summary = summarize(gather(warehouse, stack.config, ledger, stack.told(), row_ages_s, first_s, restarts))
    stack.stop_flows()
    return summary


def _greet(stack: Stack, options: DemoOptions) -> None:
    command = "datastreamx" if shutil.which("datastreamx") else str(Path(sys.executable).with_name("datastreamx"))
    recent = "TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 1 HOUR)"
    sql = (
        f"SELECT aggregator, outcome, COUNT(*) AS n FROM bids WHERE decided_time > {recent} GROUP BY 1, 2 ORDER BY 1, 2"  # noqa: S608 - nothing in it comes from outside
    )
    say(f"DatastreamX demo: {options.boxes:,} boxes, {len(stack.aggregators)} aggregators, all on this machine")
    say(f"  Kafka     {stack.config.kafka.bootstrap}")
    say(f"  BigQuery  {stack.config.bigquery.rest_endpoint}")
    say(f"  Logs      {stack.logs}")
    say(f"  Ask       {command} query --config {stack.config_path} '{sql}'")
    say(f"  Explain   {command} explain --config {stack.config_path} stb-000042")
    ends = f"by itself after {options.duration_s:g} s, or " if options.duration_s else ""
    say(f"  Stop      {ends}Ctrl-C: stops everything and sums up")


def _watch(stack: Stack, watch: _Watch, options: DemoOptions, interrupted: list[bool], demo_started_s: float) -> None:
    started_s = time.monotonic()
    kills = _planned_kills(options)
    with _live_line() as show_line:
        while not interrupted:
            stack.check()
            elapsed_s = time.monotonic() - started_s
            if options.duration_s is not None and elapsed_s >= options.duration_s:
                break
            while kills and elapsed_s >= kills[0][0]:
                stack.flows[kills.pop(0)[1]].kill_worker()
            show_line(watch.line(time.monotonic() - demo_started_s))
            time.sleep(max(0.0, _TICK_S - (time.monotonic() - started_s - elapsed_s)))


_LATER: tuple[FlowName, ...] = ("warehouse", "notices")


def _planned_kills(options: DemoOptions) -> list[tuple[float, FlowName]]:
    """When to kill which flow: the ads worker in the second quarter, the warehouse and notices workers in the third."""
    if not options.kill_worker:
        return []
    rng = random.Random(options.seed)  # noqa: S311 - a seed repeats the run
    whole_s = options.duration_s or 60.0
    return [
        (whole_s * rng.uniform(0.25, 0.5), "ads"),
        *sorted((whole_s * rng.uniform(0.5, 0.75), name) for name in _LATER),
    ]


def _wait_for_rows(stack: Stack, warehouse: Warehouse, ledger: Ledger) -> None:
    """Until everything the fleet produced is queryable and told, or nothing more comes."""
    deadline_s = time.monotonic() + _SETTLE_LIMIT_S
    last: tuple[object, ...] = ()
    still = 0
    while time.monotonic() < deadline_s:
        stack.check_flows()
        counts = warehouse.counts()
        now = (*counts.values(), stack.notices_accepted())
        still = still + 1 if now == last else 0
        last = now
        complete = counts["box_events"] >= ledger.expected_rows and counts["impressions"] >= ledger.displays_reported
        # A few quiet looks in a row, because the last decisions and rollups land after the last event.
        if still * _SETTLE_POLL_S >= (4.0 if complete else 30.0):
            return
        time.sleep(_SETTLE_POLL_S)


@contextlib.contextmanager
def _live_line() -> Iterator[Show]:
    if not is_interactive():
        yield lambda _: None
        return
    with Live(console=stderr, transient=True, auto_refresh=False) as live:
        yield lambda line: live.update(Text(line), refresh=True)


@contextlib.contextmanager
def _interruptible() -> Iterator[list[bool]]:
    """A list that fills when the user asks to stop; a second Ctrl-C ends at once."""
    asked: list[bool] = []

    def on_signal(*_: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _directory(options: DemoOptions) -> Iterator[Path]:
    """Where the demo works: the given folder, emptied of an earlier demo, or a temporary one."""
    if options.directory is None:
        with tempfile.TemporaryDirectory(prefix="datastreamx-demo-") as name:
            yield Path(name)
        return
    for leftover in ("recovery", "logs"):
        shutil.rmtree(options.directory / leftover, ignore_errors=True)
    options.directory.mkdir(parents=True, exist_ok=True)
    yield options.directory


def summary_lines(summary: Summary) -> list[str]:
    """The audit, for a person."""
    counted = {name: getattr(summary, name) for name in ("events", "auctions", "pushes", "notices")}
    lines = [
        f"{name:<12}" + "   ".join(f"{key} {value:,}" for key, value in numbers.items())
        for name, numbers in {**counted, **summary.aggregators}.items()
    ]
    push, age = summary.latency_ms["event_to_push"], summary.bigquery["row_age_s"]
    return [
        *lines,
        f"{'latency':<12}event to push p50 {push['p50']} ms, p99 {push['p99']} ms   row age p99 {age['p99']} s",
        "BROKEN PROMISES" if summary.violations else "every promise held",
        *(f"  - {violation}" for violation in summary.violations),
    ]
