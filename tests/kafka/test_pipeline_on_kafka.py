"""Both flows, untouched, while the brokers below them restart, die and change leaders."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep

import pytest

from datastreamx.model.events import Heartbeat
from datastreamx.wire.events import encode_event
from tests.integration.brokers import Broker, Record, produce
from tests.integration.oracle import differences
from tests.integration.pipeline import WAIT_S, FlowName, Pipeline, Servers, now_ms, running_servers

from .cluster import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

SEED = int(os.environ.get("DATASTREAMX_TEST_SEED", "1"))
BOXES = 300
FLOWS: tuple[FlowName, ...] = ("ads", "warehouse")

Trouble = Callable[[KafkaCluster, Pipeline, random.Random], None]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with running_servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


def restart_the_broker(cluster: KafkaCluster, pipeline: Pipeline, rng: random.Random) -> None:
    """Once as an operator does, once as a crash does."""
    for end in (cluster.stop_node, cluster.kill_node):
        let_it_run(pipeline, rng)
        end(1)
        sleep(rng.uniform(0, 3))  # nobody answers for as long
        cluster.start_node(1)


def kill_leaders(cluster: KafkaCluster, pipeline: Pipeline, rng: random.Random) -> None:
    """One after the other the leaders of what is read, what is pushed and what goes to the warehouse."""
    topics = pipeline.config.topics
    for topic in (topics.events, topics.decisions, topics.facts):
        partition = rng.randrange(pipeline.config.events.partitions)
        let_it_run(pipeline, rng)
        killed = cluster.leader_of(topic, partition)
        cluster.kill_node(killed)
        assert cluster.leader_of(topic, partition) != killed
        let_it_run(pipeline, rng)
        cluster.start_node(killed)
        for name in (topics.events, topics.decisions, topics.facts, topics.dead_letters):
            for number in range(1 if name == topics.dead_letters else pipeline.config.events.partitions):
                cluster.wait_in_sync(name, number)


def let_it_run(pipeline: Pipeline, rng: random.Random) -> None:
    """Until something new is visible, and a random moment longer."""
    before = pipeline.counts()["ad_decisions"]
    pipeline.wait_until(lambda: pipeline.counts()["ad_decisions"] > before, "another decision is a row")
    sleep(rng.uniform(0, 1))


@pytest.mark.parametrize(
    ("nodes", "trouble"), [(1, restart_the_broker), (3, kill_leaders)], ids=["broker-restarts", "leaders-die"]
)
def test_flows_outlive_trouble_of_the_brokers_and_lose_and_repeat_nothing(
    request: pytest.FixtureRequest, servers: Servers, tmp_path: Path, nodes: int, trouble: Trouble
) -> None:
    cluster: KafkaCluster = request.getfixturevalue("kafka_single" if nodes == 1 else "kafka_three")
    broker = Broker("kafka", cluster.bootstrap, cluster)
    with Pipeline(tmp_path, broker, servers, replicas=nodes) as pipeline:
        pipeline.apply()
        pipeline.start(*FLOWS)
        processes = {name: pipeline.flows[name].pid for name in FLOWS}
        with pipeline.fleet(boxes=BOXES, seed=SEED) as fleet:
            trouble(cluster, pipeline, random.Random(SEED))
            let_it_run(pipeline, random.Random(SEED))
            assert fleet.stop(grace_s=WAIT_S) == 0, fleet.log_tail()
        event = Heartbeat(event_id="last", box_id="stb-last", seq=1, event_time_ms=now_ms())
        last: list[Record] = [(n, b"stb-last", encode_event(event)) for n in range(pipeline.config.events.partitions)]
        produce(broker, pipeline.config.topics.events, last)
        pipeline.wait_for_rows()

        assert {name: pipeline.flows[name].pid for name in FLOWS if pipeline.flows[name].poll() is None} == processes
        assert pipeline.stop(*FLOWS) == {"ads": 0, "warehouse": 0}
        assert differences(pipeline.evidence()) == [], f"seed {SEED}\n{pipeline.logs()}"
