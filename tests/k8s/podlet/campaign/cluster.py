"""A pipeline whose processes are pods: their configuration, their volumes, what they left behind."""

from __future__ import annotations

from pathlib import Path

from datastreamx.config import load_config
from datastreamx.place import place_of
from tests.integration.brokers import Broker
from tests.integration.pipeline import FlowName, Pipeline, Servers
from tests.k8s.podlet import Podlet

FLOWS: tuple[FlowName, ...] = ("ads", "warehouse", "notices")
PARTITIONS = 12
"""All numbers of cells up to four, and six, have equal shares."""

BIGQUERY_HOST = "bigquery.test"
REST_PORT, GRPC_PORT = 9050, 9060
AGGREGATOR_PORT = 8080

_SECRETS = "/etc/datastreamx/secrets"
_VOLUME = "/var/lib/datastreamx"
_LOG_TAIL = 30

_NOTICES = """\
notices = ["win", "loss", "billing"]
notice_hosts = ["{host}"]
notice_network = "any"
"""

# Snapshots are as often as in production. A deadline outlives a restart, so that auctions are run again after one.
_EDITS = {
    "partitions = 4": f"partitions = {PARTITIONS}",
    "epoch_ms = 400": "epoch_ms = 1000",
    "decision_budget_ms = 2000": "decision_budget_ms = 5000",
    "\n[privacy]": "\n[notices]\ntimeout_ms = 1000\nretry_interval_ms = 300\nattempts = 20\n\n[privacy]",
}


def aggregator_host(name: str) -> str:
    """As pods call an aggregator."""
    return f"{name}.test"


class Cluster(Pipeline):
    """Topics, tables and configuration here; flows in pods.

    Args:
        directory: Files go below it.
        broker: At an address that pods and this machine reach.
        servers: On this machine.
        podlet: Where the pods are.
        cells: Of each flow.
    """

    def __init__(self, directory: Path, broker: Broker, servers: Servers, podlet: Podlet, cells: int) -> None:
        self._servers = servers
        self._podlet = podlet
        super().__init__(directory, broker, servers, cells=cells, flows=FLOWS, edit=self._edit)

    @property
    def pods_config(self) -> str:
        """The configuration as pods read it: names, secrets and folders are those of the manifests."""
        text = self.config_path.read_text(encoding="utf-8")
        bigquery = self._servers.bigquery
        edits = {
            bigquery.rest_url: f"http://{BIGQUERY_HOST}:{REST_PORT}",
            f'"{bigquery.grpc_target}"': f'"{BIGQUERY_HOST}:{GRPC_PORT}"',
            f'"{self.box_key_secret}"': f'{{ file = "{_SECRETS}/box-key-secret" }}',
            f'directory = "{self.config.recovery.directory}"': (
                f'directory = "{_VOLUME}/recovery"\nhandover = "/handover"'
            ),
        }
        for one in self._servers.aggregators:
            edits[f'"{one.url}"'] = f'"http://{aggregator_host(one.name)}:{AGGREGATOR_PORT}/bid"'
        metrics = '[metrics]\nhost = "0.0.0.0"\nport = 9090\npeers = "http://{flow}-{ordinal}.{flow}:9090"\n\n[privacy]'
        return _replaced(text, {**edits, "[privacy]": metrics})

    @property
    def box_key_secret(self) -> str:
        """What pods find in a file."""
        return self.config.privacy.box_key_secret.reveal()

    @property
    def pod_names(self) -> list[str]:
        """All that there should be."""
        return [f"{flow}-{ordinal}" for flow in FLOWS for ordinal in range(self.cells)]

    def cell_of(self, partition: int) -> int:
        """Ordinal of the cell that has a partition."""
        return partition % self.cells

    def partitions_of(self, ordinal: int) -> frozenset[int]:
        """What a cell reads, and writes."""
        return frozenset(place_of(self.config, ordinal).partitions(self.config.events.partitions))

    def say_cells(self, cells: int) -> None:
        """Change the number in the configuration."""
        text = self.config_path.read_text(encoding="utf-8")
        self._write_config(_replaced(text, {f"\ncells = {self.cells}\n": f"\ncells = {cells}\n"}))

    def store(self, name: FlowName, ordinal: int = 0) -> Path:
        folder = self._podlet.claim(f"{name}-{ordinal}", "recovery") / "recovery"
        return folder / place_of(self.config, ordinal).store_name(name)

    def logs(self) -> str:
        return "\n".join(
            f"--- {pod.name}\n" + "\n".join(pod.log().splitlines()[-_LOG_TAIL:]) for pod in self._podlet.pods
        )

    def _write_config(self, text: str) -> None:
        self.config_path.write_text(text, encoding="utf-8")
        self.config = load_config(self.config_path)

    def _edit(self, text: str) -> str:
        heads = {one.name: f'name = "{one.name}"\n' for one in self._servers.aggregators}
        wants = {head: head + _NOTICES.format(host=aggregator_host(name)) for name, head in heads.items()}
        return _replaced(text, _EDITS | wants)


def _replaced(text: str, edits: dict[str, str]) -> str:
    for old, new in edits.items():
        assert text.count(old) == 1, f"{old!r} is in the configuration {text.count(old)} times"
        text = text.replace(old, new)
    return text
