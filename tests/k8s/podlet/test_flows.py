"""The ads flow as the overlay `dev` renders it: pods, probes, volumes and policies as they are, the world simulated.

What else may happen to pods is in the campaign's stories. `DATASTREAMX_TEST_SEED` chooses the viewers.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from datastreamx.config import Config, load_config
from simulator.processes import Child
from tests.integration.brokers import Broker
from tests.integration.oracle import decided
from tests.integration.pipeline import environment
from tests.integration.reading import read_topic
from tests.k8s.podlet import Podlet, PodletError, unusable
from tests.k8s.podlet.manifest import Resource
from tests.k8s.podlet.world import World, edited, running_world
from tests.k8s.render import K8S, render

pytestmark = [pytest.mark.podlet, pytest.mark.timeout(900)]

SEED = int(os.environ.get("DATASTREAMX_TEST_SEED", "1"))
BOXES = 100
UID = 10001


@dataclass(frozen=True)
class Deployment:
    """Both pods of the ads flow, and boxes that keep them busy.

    Attributes:
        config: That of the pods, as this machine has to say it.
    """

    podlet: Podlet
    world: World
    config: Config

    def decisions(self) -> dict[str, int]:
        """Copies in the topic, by auction."""
        broker = Broker("tansu", self.world.bootstrap)
        topic = read_topic(broker, self.config.topics.decisions, self.config.events.partitions)
        return {**decided(topic).copies}

    def await_more(self) -> None:
        """Until both cells have decided something more."""
        before = len(self.decisions())
        self.podlet.wait(lambda: len(self.decisions()) > before + 10, f"seed {SEED}: decisions are made")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    reason = unusable()
    if reason is not None:
        pytest.skip(f"the process harness {reason}")
    directory = tmp_path_factory.mktemp("podlet")
    resources = edited(render(K8S / "overlays" / "dev"), in_the_simulator)
    with Podlet(directory=directory, time_scale=20) as podlet, running_world(podlet, directory) as world:
        podlet.apply(one for one in resources if one["kind"] != "StatefulSet")
        podlet.apply(edited(render(K8S / "jobs" / "dev" / "apply"), in_the_simulator))
        assert podlet.wait_job("apply") == "Complete", podlet.job_pods("apply")[0].log("apply")
        podlet.apply(one for one in resources if one["metadata"]["name"] == "ads")
        podlet.wait_ready("ads")
        config = world.config_for_here(resources, directory)
        with boxes(config, directory):
            yield Deployment(podlet, world, load_config(config))


def in_the_simulator(text: str) -> str:
    """Viewers act twenty times faster than real ones."""
    return text + "\n[viewing]\ndwell_ms = 1500\nmin_push_interval_ms = 3000\n"


@contextmanager
def boxes(config: Path, directory: Path) -> Iterator[None]:
    options = {"config": config, "ledger": directory / "ledger.json", "boxes": BOXES, "seed": SEED, "speed-up": 20}
    argv = [sys.executable, "-m", "simulator.fleet", *(f"--{key}={value}" for key, value in options.items())]
    with Child("fleet", argv, log_path=directory / "fleet.log", env=environment()):
        yield


def test_flow_decides_behind_its_own_policies(deployment: Deployment) -> None:
    deployment.await_more()

    for pod in deployment.podlet.pods:
        assert deployment.podlet.get(pod.name, "/livez")[0] == 200
        assert deployment.podlet.get(pod.name, "/readyz")[0] == 200
        assert json.loads(deployment.podlet.get(pod.name, "/status")[1])
        assert pod.restarts == 0


def test_every_process_is_without_rights(deployment: Deployment) -> None:
    for name in ("ads-0", "ads-1"):
        pids = deployment.podlet.pids(name)
        assert len(pids) >= 2  # supervisor and worker

        for pid in pids:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            assert re.findall(r"^[UG]id:\t(.*)$", status, re.MULTILINE) == [f"{UID}\t{UID}\t{UID}\t{UID}"] * 2
            assert {*re.findall(r"^Cap\w+:\t(\w+)$", status, re.MULTILINE)} == {"0" * 16}
            assert "NoNewPrivs:\t1" in status


def test_worker_that_is_killed_costs_no_container(deployment: Deployment) -> None:
    podlet = deployment.podlet
    podlet.wait_ready("ads")
    restarts = podlet.pod("ads-1").restarts
    worker = podlet.pids("ads-1")[1]

    podlet.kill("ads-1", process=1)

    podlet.wait(lambda: len(pids := podlet.pids("ads-1")) > 1 and pids[1] != worker, "another worker")
    podlet.wait_ready("ads")
    deployment.await_more()
    assert podlet.pod("ads-1").restarts == restarts


def test_policies_of_the_overlay_are_what_lets_the_flow_out(deployment: Deployment) -> None:
    """Without the one for Kafka the flow cannot reach it: the other tests do not pass because nothing is enforced."""
    podlet = deployment.podlet
    podlet.wait_ready("ads")
    closed: Resource = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "egress-kafka", "namespace": "datastreamx"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"]},
    }
    (opened,) = (one for one in render(K8S / "overlays" / "dev") if one["metadata"]["name"] == "egress-kafka")

    podlet.apply([closed])
    podlet.delete("ads-1")
    podlet.wait_gone(podlet.pod("ads-1"))
    with pytest.raises(PodletError, match="in vain"):
        podlet.wait_ready("ads", within_s=15)

    podlet.apply([opened])
    podlet.wait_ready("ads")
