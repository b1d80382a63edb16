"""The world around the overlay `dev`: simulated Kafka, BigQuery and aggregators, where its manifests expect them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from simulator.aggregators.handle import LocalAggregator
from simulator.bigquery.handle import LocalBigQuery
from simulator.processes import Child
from tests.k8s.podlet.manifest import Resource, Store
from tests.k8s.podlet.outside import broker
from tests.k8s.podlet.podlet import Podlet

NAMESPACE = "datastreamx-dev"

_CONFIG = "datastreamx.toml"
_KAFKA_PORT = 9092
_REST_PORT = 9050
_GRPC_PORT = 9060
_AGGREGATOR_PORT = 8080
_SECRETS = "/etc/datastreamx/secrets"


@dataclass(frozen=True)
class World:
    """What pods reach, as this machine reaches it.

    Attributes:
        bootstrap: Of the broker; the same address that pods use.
        aggregators: `adriatic` and `caspian`.
    """

    bootstrap: str
    broker: Child
    bigquery: LocalBigQuery
    aggregators: tuple[LocalAggregator, LocalAggregator]

    def config_for_here(self, resources: Iterable[Resource], directory: Path) -> Path:
        """Write the pods' configuration so that it works from this machine, and return its path: for boxes and checks.

        Args:
            resources: Rendered, and edited.
            directory: Where it goes, with its secrets in files.
        """
        store = Store()
        for resource in resources:
            store.put(resource)
        for secret in store.of("Secret"):
            for key, value in store.data("Secret", secret["metadata"]["name"]).items():
                (directory / key).write_bytes(value)
        text = config_text(resources)
        adriatic, caspian = self.aggregators
        for old, new in (
            (f"kafka.{NAMESPACE}:{_KAFKA_PORT}", self.bootstrap),
            (f"http://bigquery.{NAMESPACE}:{_REST_PORT}", self.bigquery.rest_url),
            (f"bigquery.{NAMESPACE}:{_GRPC_PORT}", self.bigquery.grpc_target),
            (f"http://adriatic.{NAMESPACE}:{_AGGREGATOR_PORT}/bid", adriatic.url),
            (f"http://caspian.{NAMESPACE}:{_AGGREGATOR_PORT}/bid", caspian.url),
            (_SECRETS, str(directory)),
        ):
            assert old in text, f"the overlay does not say {old} any more"
            text = text.replace(old, new)
        path = directory / _CONFIG
        path.write_text(re.sub(r'"/(var|handover)', rf'"{directory}/\1', text), encoding="utf-8")
        return path


def config_text(resources: Iterable[Resource]) -> str:
    """The configuration that rendered resources hold."""
    (text,) = (one["data"][_CONFIG] for one in resources if one["kind"] == "ConfigMap" and _CONFIG in one["data"])
    return str(text)


def edited(resources: Iterable[Resource], edit: Callable[[str], str]) -> list[Resource]:
    """Rendered resources with another configuration."""
    return [
        one | {"data": one["data"] | {_CONFIG: edit(one["data"][_CONFIG])}}
        if one["kind"] == "ConfigMap" and _CONFIG in one["data"]
        else one
        for one in resources
    ]


@contextmanager
def running_world(podlet: Podlet, directory: Path) -> Iterator[World]:
    """Start it, and give it the names that the overlay's configuration and policies use; nothing is left running."""
    kafka = podlet.outside(f"kafka.{NAMESPACE}", namespace=NAMESPACE)
    servers = (
        broker(kafka, _KAFKA_PORT, directory),
        LocalBigQuery(directory),
        LocalAggregator("adriatic", "openrtb", log_dir=directory),
        LocalAggregator("caspian", "simple", log_dir=directory),
    )
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        for started in [pool.submit(stack.enter_context, server) for server in servers]:
            started.result()
        child, bigquery, adriatic, caspian = servers
        ports = {_REST_PORT: _port(bigquery.rest_url), _GRPC_PORT: _port(bigquery.grpc_target)}
        podlet.outside(f"bigquery.{NAMESPACE}", ports, NAMESPACE)
        for aggregator in (adriatic, caspian):
            name = f"{aggregator.name}.{NAMESPACE}"
            podlet.outside(name, {_AGGREGATOR_PORT: _port(aggregator.url)}, NAMESPACE)
        yield World(f"{kafka.address}:{_KAFKA_PORT}", child, bigquery, (adriatic, caspian))


def _port(url: str) -> int:
    found = re.search(r":(\d+)(/|$)", url)
    assert found is not None, url
    return int(found[1])
