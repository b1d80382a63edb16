"""The whole service, as the demo runs it, on Apache Kafka: for measurements that last longer than the local broker."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Self

from datastreamx.cli.demo.audit import Summary, Warehouse
from datastreamx.cli.demo.run import end_and_audit
from datastreamx.cli.demo.stack import Stack
from datastreamx.config import Config
from datastreamx.place import Place
from datastreamx.supervisor import read_status
from simulator.bigquery.handle import LocalBigQuery
from simulator.fleet.ledger import Ledger, read_ledger
from sinks.bigquery.client import rest_client
from tests.kafka.cluster import KafkaCluster

START_LIMIT_S = 120.0


def say(text: str) -> None:
    """A line of progress, for people."""
    sys.stderr.write(text + "\n")


class Service:
    """Boxes, aggregators, flows, BigQuery, one Kafka node. A context manager.

    Args:
        directory: For everything.
        boxes: Size of the fleet, which acts six times as fast as real viewers.
        extra: Sections to add to the configuration.
    """

    def __init__(self, directory: Path, boxes: int, *, extra: str = "") -> None:
        self._directory = directory
        self._boxes = boxes
        self._extra = extra
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with self._resources:
            kafka = self._resources.enter_context(KafkaCluster(nodes=1, directory=self._directory / "kafka"))
            self._stack = self._resources.enter_context(
                Stack(self._directory, self._boxes, 1, 6.0, "none", bootstrap=kafka.bootstrap, extra=self._extra)
            )
            self._wait_until_it_works()
            self._resources = self._resources.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    @property
    def config(self) -> Config:
        """Of the flows."""
        return self._stack.config

    @property
    def bigquery(self) -> LocalBigQuery:
        """The one that rows land in."""
        return self._stack.bigquery

    @property
    def flows(self) -> list[str]:
        """Names of the flows."""
        return sorted(self._stack.flows)

    @property
    def ledger(self) -> Ledger:
        """The books of the boxes so far."""
        return read_ledger(self._stack.ledger_path)

    @cached_property
    def warehouse(self) -> Warehouse:
        """Asks BigQuery."""
        return Warehouse(rest_client(self.config.bigquery), self.config)

    def check(self) -> None:
        """Raise if something has ended that must not."""
        self._stack.check()

    def rows(self, table: str) -> int:
        """Rows that a query finds."""
        return self.warehouse.counts()[table]

    def worker_pid(self, flow: str) -> int:
        """Process id of a flow's worker."""
        (found,) = [one for name, one in self._stack.flows.items() if name == flow]
        status = read_status(found.status_path)
        if status is None or status.pid is None:
            raise SystemExit(f"flow {flow} has no worker:\n{found.supervisor.log_tail()}")
        return status.pid

    def store(self, flow: str) -> Path:
        """Folder of a flow's recovery store."""
        return Path(self.config.recovery.directory) / Place().store_name(flow)

    def _wait_until_it_works(self) -> None:
        give_up_s = time.monotonic() + START_LIMIT_S
        while not (self._stack.ledger_path.exists() and self.ledger.pushes.displayed and self.rows("box_events")):
            self.check()
            if time.monotonic() > give_up_s:
                raise SystemExit(f"no push and no row within {START_LIMIT_S:g} s; see the logs in {self._directory}")
            time.sleep(0.5)

    def finish(self) -> Summary:
        """Let everything end, and audit it."""
        return end_and_audit(self._stack, self.warehouse, [], {})
