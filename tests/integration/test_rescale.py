"""Both flows in cells, shared out to other numbers of cells while boxes go on, against an oracle without faults.

`DATASTREAMX_TEST_SEED` chooses viewers, faults and moments.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from time import sleep

import pytest

from tests.integration.brokers import Broker, produce
from tests.integration.oracle import differences, expect
from tests.integration.pipeline import FLOWS, Pipeline, Servers
from tests.integration.test_pipeline import last_signs_of_life

pytestmark = [pytest.mark.integration, pytest.mark.campaign, pytest.mark.one_broker, pytest.mark.timeout(600)]

SEED = int(os.environ.get("DATASTREAMX_TEST_SEED", "1"))
BOXES = 300


def test_cells_that_are_shared_out_anew_leave_what_one_would(broker: Broker, servers: Servers, tmp_path: Path) -> None:
    rng = random.Random(f"{SEED}/rescale")
    with Pipeline(tmp_path, broker, servers, cells=2) as pipeline:
        pipeline.apply()
        pipeline.start(*FLOWS)
        with pipeline.fleet(boxes=BOXES, seed=SEED) as fleet:
            pipeline.wait_until(lambda: pipeline.counts()["ad_decisions"] > 0, "the first decision is a row")
            for cells in (3, 1, 4):
                sleep(rng.uniform(0, 1.5))  # a random moment is the very point
                victims = rng.sample(pipeline.cells_of(*FLOWS), pipeline.cells)
                for child in victims:
                    child.kill()
                # The other ones stop cleanly; stores of both kinds are shared out.
                codes = {
                    child.name: child.stop(grace_s=90) for child in pipeline.cells_of(*FLOWS) if child not in victims
                }
                assert {*codes.values()} <= {0}, f"seed {SEED}: {codes}\n{pipeline.logs()}"
                pipeline.rescale(cells)
                pipeline.start(*FLOWS)
                sleep(rng.uniform(0, 1.5))  # likewise
                child = rng.choice(pipeline.cells_of(*FLOWS))
                child.kill()
                child.start()
                pipeline.wait_until_reading(*FLOWS)
            pipeline.wait_for_variety()
            assert fleet.stop(grace_s=90) == 0, fleet.log_tail()
        topic, partitions = pipeline.config.topics.events, pipeline.config.events.partitions
        produce(broker, topic, last_signs_of_life(partitions))
        pipeline.wait_for_rows()
        assert pipeline.stop(*FLOWS) == dict.fromkeys(FLOWS, 0), pipeline.logs()
        evidence = pipeline.evidence()
        assert differences(evidence) == [], f"seed {SEED}"
        expected = expect(evidence.config, evidence.events)
        assert min(len(expected.sessions), expected.late, expected.duplicates) > 0
        asides = sorted(path.name for path in (tmp_path / "recovery").glob("before-rescale-*"))
        assert len(asides) == 3
