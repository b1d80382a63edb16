"""Everything that a campaign needs: harness, broker, BigQuery, aggregators, the rendered deployment, boxes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from simulator.aggregators.handle import LocalAggregator
from simulator.processes import Child
from tests.chaos.journal import Journal
from tests.integration.brokers import Broker
from tests.integration.pipeline import Servers, running_servers
from tests.integration.reading import read_topic
from tests.k8s.podlet import Event, Podlet
from tests.k8s.podlet.campaign import deployment
from tests.k8s.podlet.campaign.cluster import (
    AGGREGATOR_PORT,
    BIGQUERY_HOST,
    GRPC_PORT,
    REST_PORT,
    Cluster,
    aggregator_host,
)
from tests.k8s.podlet.campaign.deployment import SETS, Deployment, Service
from tests.k8s.podlet.campaign.measures import Log, first_after, unclean_stops
from tests.k8s.podlet.campaign.options import Options
from tests.k8s.podlet.manifest import Resource
from tests.k8s.podlet.outside import broker as outside_broker
from tests.kafka.cluster import KafkaCluster

WITHIN_S = 300.0
"""A start may take what the startup probe of the manifests allows."""

_KAFKA_PORT = 9092


@dataclass
class Rig:
    """What stories play on.

    Attributes:
        fleet: The boxes; they live until SIGTERM.
        manifests: As they were applied last.
        offset_s: Wall clock less the monotonic one of the harness's events.
    """

    options: Options
    journal: Journal
    podlet: Podlet
    deployment: Deployment
    cluster: Cluster
    broker: Broker
    servers: Servers
    fleet: Child
    manifests: tuple[Resource, ...] = ()
    offset_s: float = field(default_factory=lambda: time.time() - time.monotonic())

    @property
    def aggregators(self) -> tuple[LocalAggregator, ...]:
        """All of them."""
        return self.servers.aggregators

    def rng(self, story: str) -> Random:
        """Randomness of a story: the same whatever the others do."""
        return Random(f"{self.options.seed}/{story}")

    def apply(self) -> None:
        """Apply the manifests with the configuration as it is."""
        self.manifests = self.deployment.overlay(self.cluster.pods_config, self.cluster.cells)
        self.podlet.apply(self.manifests)

    def wait_ready(self) -> None:
        """Until all pods are ready."""
        self.podlet.wait_ready(*SETS, within_s=WITHIN_S)

    def stop(self) -> float:
        """Scale all flows to nothing; returns when nothing runs, with the moment (monotonic) at which it was begun."""
        began_s, pods = time.monotonic(), self.podlet.pods
        for name in SETS:
            self.podlet.scale(name, 0)
        for pod in pods:
            self.podlet.wait_gone(pod, within_s=WITHIN_S)
        return began_s

    def unclean_stops(self, since_s: float) -> list[str]:
        """Flows that were asked to end from a moment on, and did so in another way than by themselves with code 0."""
        return unclean_stops(self.events(since_s), lambda pod: pod.rpartition("-")[0])

    def log(self) -> Log:
        """What the ads flow has written so far."""
        topics, partitions = self.cluster.config.topics, self.cluster.config.events.partitions
        return Log(*(read_topic(self.broker, topic, partitions) for topic in (topics.facts, topics.decisions)))

    def events(self, since_s: float) -> list[Event]:
        """What happened to pods from a moment on."""
        return self.podlet.events.of(since_s=since_s)

    def wait_writing(self, pod: str, moment_s: float) -> None:
        """Until a cell of the ads flow has written something after a moment (wall clock): boxes always send."""
        flow, _, ordinal = pod.rpartition("-")
        assert flow == "ads", f"{flow} writes no topic that is looked at"
        partitions = self.cluster.partitions_of(int(ordinal))

        def wrote() -> bool:
            return first_after(self.log().stamps_s(partitions), moment_s) is not None

        self.cluster.wait_until(wrote, f"{pod} writes", within_s=WITHIN_S)

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        """Until it holds."""
        self.podlet.wait(holds, what, within_s=WITHIN_S)


@contextmanager
def running_rig(directory: Path, options: Options, journal: Journal) -> Iterator[Rig]:
    """Start everything; topics and tables are there, all pods are ready, boxes live. Nothing is left running."""
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        podlet = stack.enter_context(Podlet(directory=directory / "pods", time_scale=options.time_scale))
        servers = stack.enter_context(running_servers(directory / "servers"))
        broker, kafka = _broker(podlet, directory / "broker", options)
        stack.enter_context(kafka)
        address, port = broker.bootstrap.split(":")
        rest, grpc = _port_of(servers.bigquery.rest_url), _port_of(f"//{servers.bigquery.grpc_target}")
        bigquery = podlet.outside(BIGQUERY_HOST, {REST_PORT: rest, GRPC_PORT: grpc})
        services = [
            Service(deployment.KAFKA, address, (int(port),)),
            Service(deployment.BIGQUERY, bigquery.address, (REST_PORT, GRPC_PORT)),
        ]
        for one in servers.aggregators:
            found = podlet.outside(aggregator_host(one.name), {AGGREGATOR_PORT: _port_of(one.url)})
            services.append(Service(deployment.AGGREGATORS, found.address, (AGGREGATOR_PORT,)))
            one.control(
                notices=True,
                notice_origin=f"http://{found.name}:{AGGREGATOR_PORT}",
                latency_p50_ms=80.0,
                latency_p99_ms=400.0,
            )
        cluster = stack.enter_context(Cluster(directory, broker, servers, podlet, options.cells))
        cluster.apply()
        manifests = Deployment(directory / "manifests", tuple(services), cluster.box_key_secret)
        fleet = cluster.fleet(boxes=options.boxes, seed=options.seed)
        rig = Rig(options, journal, podlet, manifests, cluster, broker, servers, fleet)
        rig.apply()
        journal.note("applied", f"{options.cells} cells of each flow")
        # The notices flow begins at the end of the log, so boxes live only when it is there.
        rig.wait_ready()
        journal.note("ready")
        fleet.start()
        yield rig


def _port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None, url
    return port


def _broker(podlet: Podlet, directory: Path, options: Options) -> tuple[Broker, AbstractContextManager[object]]:
    kafka = podlet.outside("kafka.test")
    if options.broker == "kafka":
        cluster = KafkaCluster(nodes=1, directory=directory, host=kafka.address)
        return Broker("kafka", cluster.bootstrap, cluster), cluster
    return Broker("tansu", f"{kafka.address}:{_KAFKA_PORT}"), outside_broker(kafka, _KAFKA_PORT, directory)
