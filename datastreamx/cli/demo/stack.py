"""All processes of the demo: started in an order, restarted when they crash, stopped without a trace."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from datastreamx.cli.demo.notices import Told
from datastreamx.config import Config, load_config
from datastreamx.errors import CrashError
from datastreamx.topics import apply_topics
from simulator.aggregators.handle import LocalAggregator
from simulator.bigquery.handle import LocalBigQuery
from simulator.broker import LocalBroker
from simulator.processes import Child
from sinks.bigquery.client import rest_client
from sinks.bigquery.schema import apply_tables

FlowName = Literal["ads", "warehouse", "notices"]

_FLOWS: tuple[FlowName, ...] = ("warehouse", "notices", "ads")

Server = LocalBroker | LocalBigQuery | LocalAggregator | Child

_RESTART_POLL_S = 0.1
_BOOKS_OPEN_S = 20.0
_EARLY_S = 5.0
_EARLY_ENDS_MAX = 3


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


@dataclass
class FlowProcess:
    """One flow's process and how often it had to be started again.

    Attributes:
        early_ends: Ends in a row soon after the start; too many of them mean that restarting does not help.
    """

    name: FlowName
    child: Child
    restarts: int = 0
    early_ends: int = 0
    started_s: float = 0.0

    def start(self) -> None:
        """Start it, for the first time or again."""
        self.child.start()
        self.started_s = time.monotonic()

    def restart(self) -> None:
        """Start it again after it ended.

        Raises:
            CrashError: It keeps ending right after its start; quotes its log.
        """
        self.early_ends = self.early_ends + 1 if time.monotonic() - self.started_s < _EARLY_S else 0
        if self.early_ends > _EARLY_ENDS_MAX:
            raise CrashError(
                f"flow {self.name} keeps ending; its log {self.child.log_path} says:\n{self.child.log_tail(8)}"
            )
        time.sleep(_RESTART_POLL_S * self.early_ends)
        self.restarts += 1
        self.start()


@dataclass
class Stack:
    """Everything that runs. Use it as a context manager: on exit nothing is left running.

    Args:
        directory: Configuration, recovery stores and logs go below it.
        boxes: Size of the fleet.
        seed: Of fleet and aggregators.
        speed_up: How much faster than real viewers the simulated ones act.
        faults: Fault preset of the fleet, see `simulator.fleet`.
    """

    directory: Path
    boxes: int
    seed: int
    speed_up: float
    faults: str
    config_path: Path = field(init=False)
    config: Config = field(init=False)
    ledger_path: Path = field(init=False)
    flows: dict[FlowName, FlowProcess] = field(init=False, default_factory=dict)
    aggregators: list[LocalAggregator] = field(init=False, default_factory=list)
    servers: list[Server] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.directory = self.directory.resolve()
        self.config_path = self.directory / "datastreamx.toml"
        self.ledger_path = self.directory / "fleet-ledger.json"
        self.logs = self.directory / "logs"
        self._resources = ExitStack()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.failure: CrashError | None = None

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        with self._resources:
            self._start()
            self._resources = self._resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._resources.__exit__(kind, error, trace)

    def check(self) -> None:
        """Raise what makes going on pointless.

        Raises:
            CrashError: A flow keeps ending, or something else ended that must not; quotes its log.
        """
        if self.failure is not None:
            raise self.failure
        if self.fleet.poll() is not None:
            raise CrashError(f"the fleet ended; its log {self.fleet.log_path} says:\n{self.fleet.log_tail(8)}")
        for server in self.servers:
            if server.poll() is not None:
                raise CrashError(f"{type(server).__name__} ended; see the logs in {self.logs}")

    def kill(self, name: FlowName) -> None:
        """SIGKILL a flow; it is started again at once."""
        with self._lock:
            self.flows[name].child.kill()

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
            time.sleep(_RESTART_POLL_S)
        self.fleet.stop(grace_s=60.0)

    def stop_flows(self) -> None:
        """Stop all flows cleanly, with a last snapshot."""
        self._stopping.set()
        with self._lock:
            for flow in self.flows.values():
                flow.child.stop(grace_s=15.0)

    def _start(self) -> None:
        broker = LocalBroker(self.logs)
        bigquery = LocalBigQuery(self.logs)
        self.aggregators = [
            LocalAggregator(p.name, p.dialect, log_dir=self.logs, seed=self.seed, profile=p.profile) for p in PARTNERS
        ]
        with ThreadPoolExecutor(max_workers=2 + len(PARTNERS)) as pool:
            self.servers = [bigquery, broker, *self.aggregators]
            started = [pool.submit(self._enter, server) for server in self.servers]
            for future in started:
                future.result()
        for one in self.aggregators:
            one.control(notices=True)
        self.config_path.write_text(self._config_text(broker, bigquery), encoding="utf-8")
        self.config = load_config(self.config_path)
        apply_topics(self.config)
        apply_tables(rest_client(self.config.bigquery), self.config.bigquery)
        for name in _FLOWS:
            self.flows[name] = FlowProcess(name, self._flow_child(name))
            self._resources.callback(self._stop_flow, name)
        with ThreadPoolExecutor(max_workers=len(self.flows)) as pool:
            for future in [pool.submit(flow.start) for flow in self.flows.values()]:
                future.result()
        self.fleet = self._fleet_child()
        self._enter(self.fleet)
        restarter = threading.Thread(target=self._restart_crashed, name="restarter", daemon=True)
        restarter.start()
        self._resources.callback(restarter.join)
        self._resources.callback(self._stopping.set)

    def _enter(self, resource: Server) -> None:
        resource.start()
        stop: Callable[[], object] = resource.stop
        self._resources.callback(stop)

    def _stop_flow(self, name: FlowName) -> None:
        with self._lock:
            self.flows[name].child.stop(grace_s=15.0)

    def _restart_crashed(self) -> None:
        while not self._stopping.wait(_RESTART_POLL_S):
            with self._lock:
                for flow in self.flows.values():
                    if flow.child.poll() is not None and not self._stopping.is_set():
                        try:
                            flow.restart()
                        except CrashError as error:
                            self.failure = error
                            return

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

    def _config_text(self, broker: LocalBroker, bigquery: LocalBigQuery) -> str:
        aggregators = "".join(
            f'\n[[aggregators]]\nname = "{one.name}"\nadapter = "{one.dialect}"\nurl = "{one.url}"\n'
            + _DIALECT_OPTIONS[one.dialect]
            + _NOTICES
            for one in self.aggregators
        )
        return DEMO_CONFIG.format(
            bootstrap=broker.bootstrap,
            rest=bigquery.rest_url,
            grpc=bigquery.grpc_target,
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
