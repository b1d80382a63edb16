"""All processes of the demo: started in an order, watched, stopped without a trace."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from datastreamx.cli.demo.notices import Told
from datastreamx.cli.options import FlowName
from datastreamx.config import Config, load_config
from datastreamx.errors import CrashError
from datastreamx.place import Place
from datastreamx.supervisor import read_status, status_path
from datastreamx.topics import apply_topics
from simulator.aggregators.handle import LocalAggregator
from simulator.bigquery.handle import LocalBigQuery
from simulator.broker import LocalBroker
from simulator.processes import Child
from sinks.bigquery.client import rest_client
from sinks.bigquery.schema import apply_tables

_FLOWS: tuple[FlowName, ...] = ("warehouse", "notices", "ads")

Server = LocalBroker | LocalBigQuery | LocalAggregator | Child

_STOP_GRACE_S = 15.0
_BOOKS_OPEN_S = 20.0
_BOOKS_POLL_S = 0.1


@dataclass(frozen=True)
class Partner:
    """One simulated aggregator: name, dialect and profile."""

    name: str
    dialect: Literal["openrtb", "simple"]
    profile: str


PARTNERS = (
    Partner("adriatic", "openrtb", "steady"),
    Partner("baltic", "openrtb", "fast"),
    Partner("caspian", "simple", "steady"),
)


@dataclass(frozen=True)
class FlowProcess:
    """One flow: its supervisor, and where that one tells how the worker is."""

    name: FlowName
    supervisor: Child
    status_path: Path

    @property
    def restarts(self) -> int:
        """How often the worker had to be started again."""
        status = read_status(self.status_path)
        return status.restart_count if status else 0

    def kill_worker(self) -> None:
        """SIGKILL the worker, if there is one; the supervisor starts another."""
        status = read_status(self.status_path)
        if status and status.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(status.pid, signal.SIGKILL)


@dataclass
class Stack:
    """Everything that runs. Use it as a context manager: on exit nothing is left running.

    Args:
        directory: Configuration, recovery stores and logs go below it.
        boxes: Size of the fleet.
        seed: Of fleet and aggregators.
        speed_up: How much faster than real viewers the simulated ones act.
        faults: Fault preset of the fleet, see `simulator.fleet`.
        bootstrap: Brokers to use instead of a local one; topics of the default names are made there.
        extra: Sections to add to the configuration.
    """

    directory: Path
    boxes: int
    seed: int
    speed_up: float
    faults: str
    bootstrap: str | None = None
    extra: str = ""
    config_path: Path = field(init=False)
    config: Config = field(init=False)
    ledger_path: Path = field(init=False)
    flows: dict[FlowName, FlowProcess] = field(init=False, default_factory=dict)
    bigquery: LocalBigQuery = field(init=False)
    aggregators: list[LocalAggregator] = field(init=False, default_factory=list)
    servers: list[Server] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.directory = self.directory.resolve()
        self.config_path = self.directory / "datastreamx.toml"
        self.ledger_path = self.directory / "fleet-ledger.json"
        self.logs = self.directory / "logs"
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        with self._resources:
            self._start()
            self._resources = self._resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, trace)

    def check(self) -> None:
        """Raise what makes going on pointless.

        Raises:
            CrashError: A flow has given up, or something else ended that must not; quotes its log.
        """
        self.check_flows()
        if self.fleet.poll() is not None:
            raise CrashError(f"the fleet ended; its log {self.fleet.log_path} says:\n{self.fleet.log_tail(8)}")
        for server in self.servers:
            if server.poll() is not None:
                raise CrashError(f"{type(server).__name__} ended; see the logs in {self.logs}")

    def check_flows(self) -> None:
        """Raise if a flow will do no more.

        Raises:
            CrashError: Its supervisor has given up; quotes its log.
        """
        for flow in self.flows.values():
            child = flow.supervisor
            if child.poll() is not None:
                raise CrashError(f"flow {flow.name} has given up; its log {child.log_path} says:\n{child.log_tail(8)}")

    def told(self) -> Told:
        """What the aggregators say they were told of their bids."""
        return Told(
            {one.name: one.stats() for one in self.aggregators}, {one.name: one.notices() for one in self.aggregators}
        )

    def notices_accepted(self) -> int:
        """Notices that the aggregators have accepted so far."""
        return sum(sum(one.stats().notices.values()) for one in self.aggregators)

    def stop_fleet(self) -> None:
        """Let the fleet finish: no new behaviour, running displays end, everything acknowledged."""
        # It opens its books within a second or two of its start; stopped before, it would leave none.
        deadline_s = time.monotonic() + _BOOKS_OPEN_S
        while not self.ledger_path.exists() and self.fleet.poll() is None and time.monotonic() < deadline_s:
            time.sleep(_BOOKS_POLL_S)
        self.fleet.stop(grace_s=60.0)

    def stop_flows(self) -> None:
        """Stop all flows cleanly, with a last snapshot."""
        for name in _FLOWS:
            self._stop_flow(name)

    def _start(self) -> None:
        brokers = [LocalBroker(self.logs)] if self.bootstrap is None else []
        self.bigquery = LocalBigQuery(self.logs)
        self.aggregators = [
            LocalAggregator(p.name, p.dialect, log_dir=self.logs, seed=self.seed, profile=p.profile) for p in PARTNERS
        ]
        with ThreadPoolExecutor(max_workers=2 + len(PARTNERS)) as pool:
            self.servers = [self.bigquery, *brokers, *self.aggregators]
            started = [pool.submit(self._enter, server) for server in self.servers]
            for future in started:
                future.result()
        for one in self.aggregators:
            one.control(notices=True)
        self.config_path.write_text(self._config_text(self.bootstrap or brokers[0].bootstrap), encoding="utf-8")
        self.config = load_config(self.config_path)
        apply_topics(self.config)
        apply_tables(rest_client(self.config.bigquery), self.config.bigquery)
        for name in _FLOWS:
            path = status_path(Path(self.config.recovery.directory), Place().store_name(name))
            self.flows[name] = FlowProcess(name, self._flow_child(name), path)
            self._resources.callback(self._stop_flow, name)
        with ThreadPoolExecutor(max_workers=len(self.flows)) as pool:
            for future in [pool.submit(flow.supervisor.start) for flow in self.flows.values()]:
                future.result()
        self.fleet = self._fleet_child()
        self._enter(self.fleet)

    def _enter(self, resource: Server) -> None:
        resource.start()
        stop: Callable[[], object] = resource.stop
        self._resources.callback(stop)

    def _stop_flow(self, name: FlowName) -> None:
        self.flows[name].supervisor.stop(grace_s=_STOP_GRACE_S)

    def _flow_child(self, name: FlowName) -> Child:
        argv = [sys.executable, "-m", "datastreamx.cli", "run", name, "--config", str(self.config_path)]
        log_path = self.logs / f"flow-{name}.log"
        return Child(f"flow {name}", argv, log_path=log_path, env=_environment(), is_ready=_reads)

    def _fleet_child(self) -> Child:
        options = {
            "--config": self.config_path,
            "--ledger": self.ledger_path,
            "--boxes": self.boxes,
            "--seed": self.seed,
            "--speed-up": self.speed_up,
            "--start-hour": 20,
            "--faults": self.faults,
        }
        argv = [sys.executable, "-m", "simulator.fleet", *(str(part) for pair in options.items() for part in pair)]
        return Child("fleet", [*argv, "--quiet"], log_path=self.logs / "fleet.log", env=_environment())

    def _config_text(self, bootstrap: str) -> str:
        aggregators = "".join(
            f'\n[[aggregators]]\nname = "{one.name}"\nadapter = "{one.dialect}"\nurl = "{one.url}"\n'
            + _DIALECT_OPTIONS[one.dialect]
            + _NOTICES
            for one in self.aggregators
        )
        return self.extra + DEMO_CONFIG.format(
            bootstrap=bootstrap,
            rest=self.bigquery.rest_url,
            grpc=self.bigquery.grpc_target,
            recovery=self.directory / "recovery",
            aggregators=aggregators,
        )


DEMO_CONFIG = """\
# Written by `datastreamx demo`: the production configuration, pointed at local counterparts. Viewers act faster than
# real ones, so dwell and caps are shorter, too.
[kafka]
bootstrap = "{bootstrap}"

[topics]
retention_hours = 1

[events]
partitions = 2
groups_per_partition = 4
max_clock_skew_ms = 3000

[viewing]
dwell_ms = 3000
min_push_interval_ms = 20000
decision_budget_ms = 2000
allowed_lateness_ms = 10000
session_gap_ms = 15000

[auction]
timeout_ms = 300
push_reserve_ms = 500
floor_micros = 500000

[bigquery]
project = "datastreamx-demo"
rest_endpoint = "{rest}"
grpc_endpoint = "{grpc}"

[recovery]
directory = "{recovery}"
epoch_ms = 1000

[privacy]
box_key_secret = "demo-only-secret"  # a real deployment writes {{ env = "NAME" }} or {{ file = "PATH" }}
{aggregators}"""


def _reads(flow: Child) -> bool:
    """Whether a flow has begun to read; boxes that report earlier would wait for it."""
    return "source.started" in flow.output()


_NOTICES = 'notices = ["win", "loss", "billing"]\nnotice_hosts = ["127.0.0.1"]\nnotice_network = "any"\n'

_DIALECT_OPTIONS = {
    "openrtb": 'options = { publisher_id = "pub-1", app_bundle = "tv.datastreamx.box" }\n',
    "simple": "",
}


def _environment() -> dict[str, str]:
    # The local BigQuery needs no account; a stray credential variable must not change that.
    return {key: value for key, value in os.environ.items() if key != "GOOGLE_APPLICATION_CREDENTIALS"}
