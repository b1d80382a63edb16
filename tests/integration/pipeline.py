"""The real flows as real processes: configuration file, topics, tables, both flows, and what they left behind."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal, Self

from confluent_kafka import Message
from google.cloud import bigquery

from datastreamx.clock import SystemClock
from datastreamx.config import Config, load_config
from datastreamx.place import place_of
from datastreamx.tables import MINUTE_ROLLUPS, TABLES, Row
from datastreamx.topics import apply_topics
from datastreamx.wire.dead_letters import parse_dead_letter
from datastreamx.wire.facts import decode_facts
from simulator.aggregators.handle import LocalAggregator
from simulator.bigquery.handle import LocalBigQuery
from simulator.fleet.ledger import Ledger, read_ledger
from simulator.processes import Child, free_port
from sinks.bigquery.client import rest_client
from sinks.bigquery.schema import apply_tables
from tests.integration.brokers import Broker
from tests.integration.oracle import (
    MEASURES,
    POSITION,
    Evidence,
    Origin,
    Position,
    RollupKey,
    decided,
    expect,
    rollup_sums,
    tables_behind,
)
from tests.integration.reading import read_topic
from tests.operators.model.reading import Viewed, viewed_in

FlowName = Literal["ads", "warehouse", "notices"]
FLOWS: tuple[FlowName, ...] = ("ads", "warehouse")

WAIT_S = 90.0
POLL_S = 0.2

_numbers = itertools.count()

FAULTS = ",".join(
    [
        *(f"{kind}=0.1" for kind in ("duplicate", "reorder")),
        *(f"{kind}=0.01" for kind in ("malformed", "invalid", "unknown_type", "oversized", "no_value", "key_mismatch")),
        *(f"{kind}=0.03" for kind in ("clock_ahead", "clock_behind", "clock_far_ahead", "clock_far_behind")),
    ]
)
"""What boxes do wrong: a fifth of all records is repeated or out of order, and all else happens often enough."""

# Viewers act twenty times faster than real ones, and everything else is as much shorter. A box's state expires within
# the run, sessions close within it, and a snapshot is taken often enough that some kill meets one.
CONFIG = """\
[kafka]
bootstrap = "{bootstrap}"

[topics]
events = "{name}-events"
decisions = "{name}-decisions"
facts = "{name}-facts"
dead_letters = "{name}-dead"
replication_factor = {replicas}

[events]
partitions = 4
groups_per_partition = 2
max_clock_skew_ms = 1000

[viewing]
dwell_ms = 1500
min_push_interval_ms = 3000
decision_budget_ms = 2000
allowed_lateness_ms = 3000
session_gap_ms = 3500
state_ttl_ms = 7000

[auction]
timeout_ms = 300
push_reserve_ms = 300
floor_micros = 500000

# On the most popular channel nobody bids enough: there are always decisions with and without a winner.
[[auction.floors]]
channels = ["ch01"]
floor_micros = 900000000

[bigquery]
project = "test"
dataset = "{dataset}"
rest_endpoint = "{rest}"
grpc_endpoint = "{grpc}"

[warehouse]
rollup_interval_ms = 1000

[recovery]
directory = "{recovery}"
epoch_ms = 400

[scaling]
{scaling}

[privacy]
box_key_secret = "0123456789abcdef"

[[aggregators]]
name = "alpha"
adapter = "openrtb"
url = "{alpha}"
options = {{ publisher_id = "pub-1", app_bundle = "tv.datastreamx.box" }}

[[aggregators]]
name = "beta"
adapter = "simple"
url = "{beta}"
"""


@dataclass(frozen=True)
class Servers:
    """What all pipelines of a test module share: BigQuery and two aggregators, the second of which often fails."""

    bigquery: LocalBigQuery
    aggregators: tuple[LocalAggregator, LocalAggregator]


@contextmanager
def running_servers(directory: Path) -> Iterator[Servers]:
    """Start them side by side; nothing is left running."""
    server = LocalBigQuery(directory)
    alpha = LocalAggregator("alpha", "openrtb", log_dir=directory, profile="steady")
    beta = LocalAggregator("beta", "simple", log_dir=directory, profile="flaky")
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        futures = [pool.submit(stack.enter_context, one) for one in (server, alpha, beta)]
        for future in futures:
            future.result()
        yield Servers(server, (alpha, beta))


class Pipeline:
    """Topics, tables, configuration and recovery stores of one run. Use it as a context manager.

    Args:
        directory: Configuration, stores and logs go below it.
        broker: Where the topics are made; `servers` the rest.
        replicas: Of each topic.
        cells: Of each flow; `rescale` changes it. With `mode` cluster, processes of the cluster of each flow.
        flows: What runs.
        env: What the flows find in their environment besides ours.
        edit: Changes the text of the configuration before it is written.
    """

    def __init__(
        self,
        directory: Path,
        broker: Broker,
        servers: Servers,
        *,
        replicas: int = 1,
        cells: int = 1,
        mode: Literal["cells", "cluster"] = "cells",
        flows: tuple[FlowName, ...] = FLOWS,
        env: Mapping[str, str] | None = None,
        edit: Callable[[str], str] = lambda text: text,
    ) -> None:
        self.directory = directory
        self.broker = broker
        name = f"pipeline-{os.getpid()}-{next(_numbers)}"
        self.config_path = directory / "datastreamx.toml"
        self._names = flows
        self._env = environment() | dict(env or {})
        self._cells: dict[tuple[FlowName, int], Child] = {}
        self._write_config(
            edit(
                CONFIG.format(
                    bootstrap=broker.bootstrap,
                    name=name,
                    replicas=replicas,
                    dataset=name.replace("-", "_"),
                    rest=servers.bigquery.rest_url,
                    grpc=servers.bigquery.grpc_target,
                    recovery=directory / "recovery",
                    scaling=f"cells = {cells}" if mode == "cells" else _cluster(cells),
                    alpha=servers.aggregators[0].url,
                    beta=servers.aggregators[1].url,
                )
            )
        )
        self.client: bigquery.Client = rest_client(self.config.bigquery)
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        self._resources.callback(self.client.close)
        self._resources.callback(self._kill)
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def apply(self) -> None:
        """Make topics and tables."""
        apply_topics(self.config)
        apply_tables(self.client, self.config.bigquery)

    @property
    def cells(self) -> int:
        """Cells of each flow, or processes of each cluster."""
        return place_of(self.config, 0).count

    @property
    def flows(self) -> dict[FlowName, Child]:
        """The first cell of each flow: the flow itself where there is one cell."""
        return {name: self.cell(name, 0) for name in self._names}

    def cell(self, name: FlowName, ordinal: int) -> Child:
        """One process; killed at the latest when the pipeline ends."""
        return self._cells[name, ordinal]

    def cells_of(self, *names: FlowName) -> list[Child]:
        """The processes of flows."""
        return [self.cell(name, ordinal) for name in names for ordinal in range(self.cells)]

    def start(self, *names: FlowName) -> None:
        """Start flows and wait until each reads: from then on SIGTERM is a clean stop."""
        for child in self.cells_of(*names):
            child.start()
        self.wait_until_reading(*names)

    def wait_until_reading(self, *names: FlowName) -> None:
        """Wait until flows that were started read."""
        for child in self.cells_of(*names):
            self.wait_until(partial(_is_reading, child), f"{child.name} reads")

    def stop(self, *names: FlowName) -> dict[FlowName, int | None]:
        """SIGTERM to all cells at once; exit code by flow, of several cells the first that is not 0."""
        running = self.cells_of(*names)
        with ThreadPoolExecutor(max(1, len(running))) as pool:
            codes = dict(zip(running, pool.map(lambda child: child.stop(grace_s=WAIT_S), running), strict=True))
        return {name: next((code for child in self.cells_of(name) if (code := codes[child]) != 0), 0) for name in names}

    def rescale(self, cells: int) -> None:
        """Share the stores out to another number of cells, and say so in the configuration; stop all flows before."""
        argv = [sys.executable, "-m", "datastreamx.cli", "rescale", "--cells", str(cells)]
        argv += ["--config", str(self.config_path)]
        done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        text = self.config_path.read_text(encoding="utf-8")
        self._write_config(text.replace(f"\ncells = {self.cells}\n", f"\ncells = {cells}\n"))
        assert self.cells == cells

    def fleet(self, *, boxes: int, seed: int, faults: str = FAULTS, loud_share: float = 0.0) -> Child:
        """Boxes that live against this pipeline's topics until SIGTERM, which lets them finish.

        Args:
            boxes: How many.
            seed: What they do.
            faults: What they do wrong.
            loud_share: Share of all events that one more box sends.
        """
        options = {
            "--config": self.config_path,
            "--ledger": self.ledger_path,
            "--boxes": boxes,
            "--seed": seed,
            "--speed-up": 20,
            "--faults": faults,
            "--loud-share": loud_share,
            "--drain-limit": 2,
            "--flush-limit": WAIT_S,
        }
        argv = [sys.executable, "-m", "simulator.fleet", *(str(part) for pair in options.items() for part in pair)]
        child = Child("fleet", argv, log_path=self.directory / "fleet.log")
        self._resources.callback(child.kill)
        return child

    @property
    def ledger_path(self) -> Path:
        return self.directory / "ledger.json"

    def ledger(self) -> Ledger | None:
        """The fleet's books so far."""
        return read_ledger(self.ledger_path) if self.ledger_path.exists() else None

    def wait_until(self, holds: Callable[[], bool], what: str, *, within_s: float = WAIT_S) -> None:
        """Poll; a flow that ends meanwhile, or too long a wait, fails the test with the flows' logs."""
        deadline_s = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline_s, f"waited in vain: {what}\n{self.logs()}"
            time.sleep(POLL_S)

    def wait_for_variety(self) -> None:
        """Until the log holds something of everything that viewers and their faults bring about."""

        def is_varied() -> bool:
            expected = expect(self.config, self.read_events())
            statuses = {decision.status for decision in decided(self.read_decisions()).decisions}
            return (
                min(len(expected.sessions), expected.late, expected.duplicates, self.counts()["impressions"]) > 0
                and {opportunity.trigger for opportunity in expected.opportunities.values()} >= {"dwell", "ad_break"}
                and "clock_skew" in expected.dead_letters.values()
                and statuses >= {"won", "no_bid"}
            )

        self.wait_until(is_varied, "an event, a decision and a row of every kind")

    def logs(self) -> str:
        """The end of what each process wrote since its last start."""
        return "\n".join(
            f"--- {child.name} (exit code {child.poll()})\n{child.log_tail(30)}"
            for child in self._cells.values()
            if child.log_path.exists()
        )

    def wait_for_rows(self, *, within_s: float = WAIT_S, quiet_s: float = WAIT_S) -> None:
        """Until every table holds what it has to; then the comparison will find nothing missing. Stop the fleet before.

        Args:
            within_s: Longest wait.
            quiet_s: It ends, too, when nothing has changed for so long.
        """
        expected = expect(self.config, self.read_events())
        begin_s = changed_s = time.monotonic()
        seen: object = None
        while time.monotonic() < min(begin_s + within_s, changed_s + quiet_s):
            log = decided(self.read_decisions())
            counts, rollups = self.counts(), self.rollup_sums()
            wanted = {name: rows.total() for name, rows in tables_behind(expected, log).items()}
            is_decided = expected.opportunities.keys() <= log.firsts.keys()
            if is_decided and wanted.items() <= counts.items() and rollups == rollup_sums(expected, log):
                return
            if seen != (seen := (log.copies.total(), counts)):
                changed_s = time.monotonic()
            time.sleep(5 * POLL_S)

    def evidence(self) -> Evidence:
        """All that is left behind; both flows have to be stopped."""
        return Evidence(
            config=self.config,
            events=self.read_events(),
            decisions=self.read_decisions(),
            dead_letters=self.read_dead_letters(),
            tables={name: self.rows(name) for name in TABLES if name != MINUTE_ROLLUPS.name},
            rollups=self.rollup_sums(),
            states=self.viewing_states(),
        )

    # What is left behind -------------------------------------------------------------------------------------------

    def read_events(self) -> list[Message]:
        return read_topic(self.broker, self.config.topics.events, self.config.events.partitions)

    def read_decisions(self) -> list[Message]:
        return read_topic(self.broker, self.config.topics.decisions, self.config.events.partitions)

    def read_fact_positions(self) -> Counter[Position]:
        """Place of every row in box-facts, with the number of its copies."""
        found: Counter[Position] = Counter()
        for message in read_topic(self.broker, self.config.topics.facts, self.config.events.partitions):
            facts = decode_facts(message.value() or b"", message.headers() or [], int(message.partition() or 0))  # type: ignore[arg-type]
            columns = [facts.rows.column(name).to_pylist() for name in POSITION]
            found.update((facts.table, *place) for place in zip(*columns, strict=True))
        return found

    def topic_sizes(self) -> dict[str, int]:
        """Records per topic that the flows write."""
        topics = self.config.topics
        counts = {topics.facts: self.config.events.partitions, topics.decisions: self.config.events.partitions}
        return {
            topic: len(read_topic(self.broker, topic, partitions))
            for topic, partitions in {**counts, topics.dead_letters: 1}.items()
        }

    def read_dead_letters(self) -> dict[Origin, str]:
        """Reason by origin; a crash may write a letter twice."""
        letters: dict[Origin, str] = {}
        for message in read_topic(self.broker, self.config.topics.dead_letters, 1):
            letter = parse_dead_letter(message.key(), message.value(), message.headers() or [])  # type: ignore[arg-type]
            origin = (letter.topic, letter.partition, letter.offset)
            assert letters.setdefault(origin, letter.reason) == letter.reason
        return letters

    def counts(self) -> dict[str, int]:
        """Rows of every table."""
        return {name: int(str(self._select(name, "COUNT(*) AS n")[0][0])) for name in TABLES}

    def rows(self, name: str) -> Counter[Row]:
        """All rows of a table, as the flows build them: columns in order, timestamps in microseconds."""
        return Counter(self._select(name, ", ".join(column.name for column in TABLES[name].columns)))

    def rollup_sums(self) -> dict[RollupKey, dict[str, int]]:
        """Sum of every measure per minute, channel and aggregator, zeros left out."""
        place = "minute, channel_id, aggregator"
        sums = ", ".join(f"SUM({name}) AS {name}" for name in MEASURES)
        return {
            (row[0], row[1], row[2]): {name: int(str(n)) for name, n in zip(MEASURES, row[3:], strict=True) if n}
            for row in self._select(MINUTE_ROLLUPS.name, f"{place}, {sums}", f"GROUP BY {place}")
        }

    def viewing_states(self) -> dict[str, Viewed]:
        """State of every key group in the recovery stores of the ads flow, by key; stop it before."""
        found: dict[str, Viewed] = {}
        for ordinal in range(self.cells):
            if not place_of(self.config, ordinal).keeps_store:
                continue
            states = _states(self.store("ads", ordinal), _VIEWING)
            assert not found.keys() & states.keys(), f"two cells hold {found.keys() & states.keys()}"
            found |= {key: viewed_in(value, self.config) for key, value in states.items()}
        return found

    def store(self, name: FlowName, ordinal: int = 0) -> Path:
        """Recovery store of one process."""
        return Path(self.config.recovery.directory) / place_of(self.config, ordinal).store_name(name)

    def _write_config(self, text: str) -> None:
        self.config_path.write_text(text, encoding="utf-8")
        self.config: Config = load_config(self.config_path)
        for name, ordinal in itertools.product(self._names, range(self.cells)):
            if (name, ordinal) not in self._cells:
                self._cells[name, ordinal] = self._flow(name, ordinal)

    def _kill(self) -> None:
        for child in self._cells.values():
            child.kill()

    def _flow(self, name: FlowName, ordinal: int) -> Child:
        argv = [sys.executable, "-m", "datastreamx.cli", "run", name, "--config", str(self._config_of(name))]
        return Child(
            f"flow {name}-{ordinal}",
            [*argv, "--ordinal", str(ordinal)],
            log_path=self.directory / f"flow-{name}-{ordinal}.log",
            env=self._env,
        )

    def _config_of(self, name: FlowName) -> Path:
        """The configuration; the clusters of several flows on one machine need addresses of their own."""
        scaling = self.config.scaling
        if scaling.mode == "cells" or name == self._names[0]:
            return self.config_path
        path = self.config_path.with_stem(f"{self.config_path.stem}-{name}")
        if not path.exists():
            old = _cluster_line(scaling.addresses)
            path.write_text(self.config_path.read_text(encoding="utf-8").replace(old, _cluster(self.cells)))
        return path

    def _select(self, table: str, what: str, grouped: str = "") -> list[Row]:
        dataset = f"`{self.config.bigquery.project}.{self.config.bigquery.dataset}`"
        since = f"{TABLES[table].partition_by} > TIMESTAMP '2001-01-01'"
        result = self.client.query_and_wait(f"SELECT {what} FROM {dataset}.{table} WHERE {since} {grouped}")  # noqa: S608  our own names
        return [tuple(_micros(value) for value in row.values()) for row in result]


_VIEWING = "ads.viewing.state"


def _is_reading(child: Child) -> bool:
    assert child.poll() is None, f"{child.name} ended with {child.poll()}\n{child.log_tail(40)}"
    return "source.started" in child.output()


def _states(store: Path, step_id: str) -> dict[str, bytes]:
    """Newest state of every key of a step."""
    found: dict[str, tuple[int, bytes]] = {}
    for path in sorted(store.glob("part-*.sqlite3")):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as part:
            snaps = part.execute("SELECT state_key, snap_epoch, ser_change FROM snaps WHERE step_id = ?", [step_id])
            for key, epoch, change in snaps:
                if change is not None and epoch >= found.get(key, (-1, b""))[0]:
                    found[key] = (epoch, pickle.loads(change))  # noqa: S301  the test's own store
    return {key: state for key, (_, state) in found.items()}


def _cluster(processes: int) -> str:
    return _cluster_line([f"127.0.0.1:{free_port()}" for _ in range(processes)])


def _cluster_line(addresses: Sequence[str]) -> str:
    return f'mode = "cluster"\naddresses = {json.dumps([*addresses])}'


def now_ms() -> int:
    return SystemClock().now_ms()


def environment() -> dict[str, str]:
    """Ours, with our import path and without credentials, which the local BigQuery does not want."""
    inherited = {name: value for name, value in os.environ.items() if name != "GOOGLE_APPLICATION_CREDENTIALS"}
    return inherited | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def _micros(value: object) -> object:
    if not isinstance(value, datetime):
        return value
    return int(value.timestamp()) * 1_000_000 + value.microsecond
