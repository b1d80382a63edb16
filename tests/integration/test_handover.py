"""Stores that move between the volumes of real processes while boxes go on, against an oracle without faults.

`DATASTREAMX_TEST_SEED` chooses viewers, faults and moments.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from time import sleep

import pytest

from simulator.processes import Child
from tests.integration.brokers import Broker, produce
from tests.integration.oracle import differences, expect
from tests.integration.pipeline import FLOWS, Servers, environment
from tests.integration.pods import Pods
from tests.integration.test_pipeline import last_signs_of_life

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

SEED = int(os.environ.get("DATASTREAMX_TEST_SEED", "1"))
BOXES = 150


@pytest.mark.campaign
@pytest.mark.one_broker
def test_stores_that_are_handed_over_leave_what_one_cell_would(
    broker: Broker, servers: Servers, tmp_path: Path
) -> None:
    """Two cells, three, two, three: the third volumes keep stores of three cells from the first time."""
    rng = random.Random(f"{SEED}/handover")
    with Pods(tmp_path, broker, servers, cells=2) as pods:
        pods.apply()
        assert outcomes(pods) == {"nothing"}
        pods.start(*FLOWS)
        with pods.fleet(boxes=BOXES, seed=SEED) as fleet:
            pods.wait_until(lambda: pods.counts()["ad_decisions"] > 0, "the first decision is a row")
            for cells in (3, 2, 3):
                sleep(rng.uniform(0, 1.5))  # a random moment is the very point
                assert pods.stop(*FLOWS) == dict.fromkeys(FLOWS, 0), f"seed {SEED}\n{pods.logs()}"
                assert all("handover.left" in child.output() for child in pods.cells_of(*FLOWS)), pods.logs()
                argv = pods.command("rescale", "--cells", str(cells), "--handed-over")
                with Child("re-shard", argv, log_path=tmp_path / "re-shard.log", env=environment()) as child:
                    kill_at(child, rng.choice(["fetched", "recorded", "handed over ads"]))
                pods.rescale(cells)
                for name in FLOWS:
                    with pods.of_pod("prepare", name, rng.randrange(cells)) as child:
                        kill_at(child, rng.choice(["begun", "checked", "complete", "moved in", "journal removed"]))
                assert outcomes(pods) <= {"took_over", "nothing"}
                assert not [*(tmp_path / "handover").glob("*/made/*/*/part-*")]
                pods.start(*FLOWS)
            sleep(rng.uniform(0, 1.5))  # likewise
            child = rng.choice(pods.cells_of(*FLOWS))
            child.kill()
            child.start()
            pods.wait_until_reading(*FLOWS)
            pods.wait_until(lambda: is_varied(pods), "a closed session, a late event and a repeated one")
            assert fleet.stop(grace_s=90) == 0, fleet.log_tail()
        finish(pods, broker)


@pytest.mark.campaign
@pytest.mark.one_broker  # Kafka tells test_replay what there is to build it from
def test_lost_volume_of_an_ads_cell_is_rebuilt_and_nothing_differs(
    broker: Broker, servers: Servers, tmp_path: Path
) -> None:
    with Pods(tmp_path, broker, servers, cells=2) as pods:
        pods.apply()
        assert outcomes(pods) == {"nothing"}
        pods.start(*FLOWS)
        with pods.fleet(boxes=BOXES, seed=SEED) as fleet:
            pods.wait_until(lambda: pods.counts()["impressions"] > 0, "the first impression is a row")
            assert pods.cell("ads", 1).kill() == -signal.SIGKILL
            pods.lose_volume("ads", 1)
            with pods.of_pod("prepare", "ads", 1) as child:
                kill_at(child, "replay.begun")
            report = pods.prepare_one("ads", 1)
            assert (report["outcome"], report["replay"]["is_resumed"]) == ("rebuilt", True), report
            pods.cell("ads", 1).start()
            pods.wait_until_reading("ads")
            pods.wait_until(lambda: is_varied(pods), "a closed session, a late event and a repeated one")
            assert fleet.stop(grace_s=90) == 0, fleet.log_tail()
        finish(pods, broker)


def outcomes(pods: Pods) -> set[str]:
    return {report["outcome"] for report in pods.prepare(*FLOWS).values()}


def kill_at(child: Child, word: str) -> None:
    """Kill it as soon as it has logged `word`."""
    while word not in child.output() and child.poll() is None:
        sleep(0.01)
    child.kill()
    assert word in child.output(), f"seed {SEED}: it never came to {word}\n{child.log_tail(30)}"


def is_varied(pods: Pods) -> bool:
    """Whether all that does not hang on how fast this machine auctions has happened."""
    expected = expect(pods.config, pods.read_events())
    return min(len(expected.sessions), expected.late, expected.duplicates) > 0


def finish(pods: Pods, broker: Broker) -> None:
    topic, partitions = pods.config.topics.events, pods.config.events.partitions
    produce(broker, topic, last_signs_of_life(partitions))
    pods.wait_for_rows()
    assert pods.stop(*FLOWS) == dict.fromkeys(FLOWS, 0), pods.logs()
    evidence = pods.evidence()
    assert differences(evidence) == [], f"seed {SEED}"
