"""All flows as they run in a pod, under their supervisors, with boxes, aggregators, Kafka and BigQuery to talk to."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from datastreamx.supervisor import read_status, status_path
from simulator.broker import LocalBroker
from tests.integration.brokers import Broker
from tests.integration.pipeline import FlowName, Pipeline, running_servers

_FLOWS: tuple[FlowName, ...] = ("ads", "warehouse", "notices")
# Counted at the end of each flow: what is before it has then worked, too.
_LAST = {
    "ads": "datastreamx_decisions_total",
    "warehouse": "datastreamx_warehouse_rows_flushed_total",
    "notices": "datastreamx_notices_total",
}
_METRICS = '[metrics]\nhost = "127.0.0.1"\nport = 0\n\n'
_NOTICES = 'notices = ["win", "loss"]\nnotice_hosts = ["127.0.0.1"]\nnotice_network = "any"\n'


@dataclass(frozen=True)
class Family:
    """A metric as one process shows it.

    Attributes:
        names: Of its series: a histogram has three.
        labels: Names and values of labels, of all its series.
    """

    names: frozenset[str]
    labels: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Live:
    """Flows that run and have done what they do.

    Attributes:
        addresses: Where each is asked, by flow.
    """

    addresses: Mapping[str, str]

    def get(self, flow: str, path: str) -> tuple[int, str]:
        """Status and body of an answer."""
        try:
            with urllib.request.urlopen(self.addresses[flow] + path, timeout=10) as answer:  # noqa: S310  ours
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def families(self, flow: str) -> list[Family]:
        """Everything that a flow's /metrics shows, read as Prometheus reads it."""
        _, text = self.get(flow, "/metrics")
        found = []
        for family in text_string_to_metric_families(text):
            names = {sample.name for sample in family.samples} or names_of(family.name, family.type)
            labels: dict[str, set[str]] = {}
            for sample in family.samples:
                for label, value in sample.labels.items():
                    labels.setdefault(label, set()).add(value)
            found.append(Family(frozenset(names), {label: frozenset(values) for label, values in labels.items()}))
        return found


def names_of(name: str, kind: str) -> set[str]:
    """Names of the series that a metric without any will have."""
    match kind:
        case "counter":
            return {f"{name}_total"}
        case "histogram":
            return {f"{name}_{part}" for part in ("bucket", "sum", "count")}
        case _:
            return {name}


@contextmanager
def running(directory: Path) -> Iterator[Live]:
    """Run everything until each flow has brought something to its end."""

    def edit(text: str) -> str:
        edited = text.replace("[privacy]", f"{_METRICS}[privacy]").replace('adapter = "', f'{_NOTICES}adapter = "')
        assert edited.count(_NOTICES) > 0
        return edited

    with LocalBroker(directory) as broker, running_servers(directory) as servers:
        for aggregator in servers.aggregators:
            aggregator.control(notices=True)
        with Pipeline(directory, Broker("tansu", broker.bootstrap), servers, flows=_FLOWS, edit=edit) as pipeline:
            pipeline.apply()
            pipeline.start(*_FLOWS)
            fleet = pipeline.fleet(boxes=60, seed=1)
            fleet.start()
            live = Live({flow: _address(pipeline, flow) for flow in _FLOWS})
            pipeline.wait_until(lambda: all(_has_worked(live, flow) for flow in _FLOWS), "each flow has worked")
            pipeline.wait_until(lambda: all(live.get(flow, "/readyz")[0] == 200 for flow in _FLOWS), "each is ready")
            yield live


def _address(pipeline: Pipeline, flow: str) -> str:
    status = read_status(status_path(Path(pipeline.config.recovery.directory), f"{flow}-0"))
    assert status is not None
    assert status.metrics is not None, f"{flow} serves no metrics"
    return status.metrics.removesuffix("/metrics")


def _has_worked(live: Live, flow: str) -> bool:
    wanted = _LAST[flow]
    return any(wanted in family.names and family.labels for family in live.families(flow))
