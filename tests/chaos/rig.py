"""Everything that one round needs: broker, BigQuery, aggregators, proxy, flows, boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from simulator.aggregators.handle import LocalAggregator
from simulator.bigquery.faults import FaultPlan
from simulator.bigquery.handle import LocalBigQuery
from simulator.broker import LocalBroker
from simulator.processes import free_port
from simulator.proxy.handle import LocalProxy
from tests.chaos.clock import Clocks, make_clocks
from tests.chaos.crew import CampaignError, Crew
from tests.chaos.disk import Disk, mounted
from tests.chaos.journal import Journal
from tests.chaos.options import Options
from tests.chaos.planted.mount import plant_environment
from tests.chaos.weather import Weather
from tests.integration.brokers import Broker
from tests.integration.pipeline import Pipeline, Servers, running_servers
from tests.kafka.cluster import KafkaCluster

DISK_BYTES = 256 * 1024 * 1024
LOUD_SHARE = 0.5

_NOTICES = """\
notices = ["win", "loss", "billing"]
notice_hosts = ["127.0.0.1"]
notice_network = "any"
"""

# A deadline outlives a restart, so that auctions are run again after one; several kills in a row let some expire.
_EDITS = {
    "decision_budget_ms = 2000": "decision_budget_ms = 5000",
    'name = "alpha"\n': f'name = "alpha"\n{_NOTICES}',
    'name = "beta"\n': f'name = "beta"\n{_NOTICES}',
    "\n[privacy]": (
        "\n[notices]\ntimeout_ms = 1000\nretry_interval_ms = 300\nattempts = 20\n\n[metrics]\nport = 0\n\n[privacy]"
    ),
}


@dataclass(frozen=True)
class CleanStop:
    """Records that the ads flow had written when a clean stop was over, in the partitions of its process.

    Attributes:
        groups: (partition, key group) that were past all that killed processes had written before; facts of others may
            still have to be repeated.
    """

    facts: Mapping[int, int]
    decisions: Mapping[int, int]
    groups: frozenset[tuple[object, object]]


@dataclass
class Rig:
    """What faults strike.

    Attributes:
        routes: Names of the proxy's routes.
        disk: Where the recovery stores are, if it could be mounted.
        clocks: Of the flows, if they can be changed.
        clean_stops: Of the ads flow.
        used_stores: Spoilt stores with which a flow has started.
    """

    options: Options
    directory: Path
    journal: Journal
    broker: Broker
    servers: Servers
    proxy: LocalProxy
    routes: tuple[str, ...]
    pipeline: Pipeline
    weather: Weather
    crew: Crew
    disk: Disk | None
    clocks: Clocks | None
    clean_stops: list[CleanStop] = field(default_factory=list)
    used_stores: list[str] = field(default_factory=list)

    @property
    def aggregators(self) -> tuple[LocalAggregator, ...]:
        """All of them."""
        return self.servers.aggregators

    def is_possible(self, kind: str) -> bool:
        """Whether a kind of fault can be had here."""
        cluster = self.broker.cluster
        return {
            "disk_full": self.disk is not None,
            "clock_step": self.clocks is not None,
            "broker_restart": cluster is not None,
            "leader_move": cluster is not None and self.options.nodes > 1,
            "rescale": self.options.mode == "cells",
            "rescale_killed": self.options.mode == "cells",
            "hang": self.options.slow,
        }.get(kind, True)

    def calm(self) -> None:
        """End everything that is in force."""
        self.crew.resume_all()
        self.weather.clear()
        self.proxy.heal()
        self.servers.bigquery.inject(FaultPlan())


@contextmanager
def running_rig(directory: Path, options: Options, journal: Journal) -> Iterator[Rig]:
    """Start everything but the flows; topics and tables are there. Nothing is left running."""
    with ExitStack() as stack:
        servers_directory = directory / "servers"
        servers = stack.enter_context(running_servers(servers_directory))
        to_be = _broker(directory / "broker", options)
        beside = {one.name: urlsplit(one.url).netloc for one in servers.aggregators}
        beside["bigquery"] = servers.bigquery.grpc_target
        proxy = LocalProxy(to_be.upstreams | beside, log_dir=servers_directory, ports=to_be.ports)
        stack.enter_context(proxy)
        stack.enter_context(to_be.process)
        for one in servers.aggregators:
            one.control(notices=True, latency_p50_ms=80.0, latency_p99_ms=400.0)
        recovery = directory / "recovery"
        disk = stack.enter_context(mounted(recovery, DISK_BYTES))
        clocks = make_clocks(directory / "clock")
        edits = {address: proxy.address(name) for name, address in beside.items()}
        edits["epoch_ms = 400"] = f"epoch_ms = {options.epoch_ms}"
        pipeline = stack.enter_context(
            Pipeline(
                directory,
                to_be.broker,
                servers,
                replicas=3 if options.nodes > 1 else 1,
                cells=options.cells,
                mode=options.mode,
                flows=("ads", "warehouse", "notices"),
                env=plant_environment(options.plants) | ({} if clocks is None else clocks.environment),
                edit=lambda text: _edited(text, edits),
            )
        )
        weather = Weather(journal)
        bystanders: list[LocalBroker | LocalProxy | LocalBigQuery | LocalAggregator]
        bystanders = [proxy, servers.bigquery, *servers.aggregators]
        if isinstance(to_be.process, LocalBroker):
            bystanders.append(to_be.process)

        def tend() -> None:
            weather.tend()
            ended = [f"{type(one).__name__} with {code}" for one in bystanders if (code := one.poll()) is not None]
            if ended:
                raise CampaignError(f"what no fault has touched has ended: {', '.join(ended)}")

        crew = Crew(pipeline, journal, tend, options.flows)
        pipeline.apply()
        yield Rig(
            options=options,
            directory=directory,
            journal=journal,
            broker=to_be.broker,
            servers=servers,
            proxy=proxy,
            routes=(*to_be.upstreams, *beside),
            pipeline=pipeline,
            weather=weather,
            crew=crew,
            disk=disk,
            clocks=clocks,
        )


def _edited(text: str, edits: Mapping[str, str]) -> str:
    for old, new in (_EDITS | dict(edits)).items():
        assert text.count(old) == 1, f"{old!r} is in the configuration {text.count(old)} times"
        text = text.replace(old, new)
    return text


@dataclass(frozen=True)
class _BrokerToBe:
    """A broker that will send its clients through the proxy, so it can start only after that.

    Attributes:
        upstreams: What the routes of the proxy lead to, and `ports` where these have to be.
    """

    process: AbstractContextManager[object]
    broker: Broker
    upstreams: dict[str, str]
    ports: dict[str, int]


def _broker(directory: Path, options: Options) -> _BrokerToBe:
    directory.mkdir(parents=True, exist_ok=True)
    if options.broker == "tansu":
        port, front = free_port(), free_port()
        local = LocalBroker(directory, port, advertised_port=front)
        return _BrokerToBe(local, Broker("tansu", f"127.0.0.1:{front}"), {"broker": local.bootstrap}, {"broker": front})
    fronts = {node: free_port() for node in range(1, options.nodes + 1)}
    cluster = KafkaCluster(nodes=options.nodes, directory=directory, advertised_ports=fronts)
    names = [f"broker-{node}" for node in fronts]
    return _BrokerToBe(
        cluster,
        Broker("kafka", cluster.bootstrap, cluster),
        dict(zip(names, cluster.listeners, strict=True)),
        dict(zip(names, fronts.values(), strict=True)),
    )
