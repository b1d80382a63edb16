"""A store from an old backup: the ads flow does nothing twice that shows, and nobody else may go on with one.

`DATASTREAMX_TEST_SEED` chooses viewers and faults.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from simulator.processes import Child
from tests.integration.brokers import Broker, produce
from tests.integration.oracle import decided, differences
from tests.integration.pipeline import FLOWS, Pipeline, Servers, environment
from tests.integration.test_pipeline import last_signs_of_life

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SEED = int(os.environ.get("DATASTREAMX_TEST_SEED", "1"))
BOXES = 200


def command(pipeline: Pipeline, *arguments: str) -> tuple[int, Any, str]:
    """Exit code, JSON and messages of a command that ends by itself."""
    argv = [sys.executable, "-m", "datastreamx.cli", *arguments, "--json", "--config", str(pipeline.config_path)]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=90, check=False)
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


@pytest.mark.campaign
@pytest.mark.one_broker
def test_an_old_store_of_the_ads_flow_does_no_harm_and_one_of_the_warehouse_is_refused(
    broker: Broker, servers: Servers, tmp_path: Path
) -> None:
    with Pipeline(tmp_path, broker, servers) as pipeline, ExitStack() as resources:
        pipeline.apply()
        pipeline.start(*FLOWS)
        with pipeline.fleet(boxes=BOXES, seed=SEED) as fleet:
            pipeline.wait_until(lambda: pipeline.counts()["ad_decisions"] > 0, "the first decision is a row")
            code, record, told = command(pipeline, "backup", "--to", str(tmp_path / "copy"))
            assert code == 0, told
            assert {store["store"] for store in record["stores"]} == {"ads-0", "warehouse-0"}
            at_backup = decided(pipeline.read_decisions()).firsts.keys()
            pipeline.wait_until(
                lambda: len(decided(pipeline.read_decisions()).firsts.keys() - at_backup) > 20, "some decisions more"
            )
            pipeline.cell("ads", 0).kill()
            shutil.rmtree(pipeline.store("ads"))
            restore = ("restore", "--from", str(tmp_path / "copy"))
            code, report, told = command(pipeline, *restore, "--flow", "ads")
            assert code == 0, told
            assert [store["age"] for store in report["stores"]] == ["old"]

            # Without consent the flow does not start, with it once it goes on as if nothing had happened.
            ads = pipeline.cell("ads", 0)
            ads.start()
            pipeline.wait_until(lambda: ads.poll() is not None, "the flow refuses the old store")
            assert "--accept-store" in ads.output()
            once = Child(ads.name, [*ads.argv, "--accept-store"], log_path=ads.log_path, env=environment())
            resources.callback(once.kill)
            once.start()
            pipeline.wait_until(lambda: "source.started" in once.output(), "the flow reads")

            assert pipeline.stop("warehouse") == {"warehouse": 0}
            code, _, told = command(pipeline, *restore, "--flow", "warehouse", "--force")
            assert (code, "would be loaded a second time" in told) == (1, True), told
            pipeline.start("warehouse")
            assert fleet.stop(grace_s=90) == 0, fleet.log_tail()
        topic, partitions = pipeline.config.topics.events, pipeline.config.events.partitions
        produce(broker, topic, last_signs_of_life(partitions))
        pipeline.wait_for_rows()
        assert (once.stop(grace_s=90), pipeline.stop("warehouse")) == (0, {"warehouse": 0}), pipeline.logs()
        assert differences(pipeline.evidence()) == [], f"seed {SEED}"

        # A copy of what a clean stop left is not old, and so may be put back for every flow.
        assert command(pipeline, "backup", "--to", str(tmp_path / "last"))[0] == 0
        code, report, told = command(pipeline, "restore", "--from", str(tmp_path / "last"), "--force")
        assert (code, [store["age"] for store in report["stores"]]) == (0, ["current"] * 2), told
        before = pipeline.topic_sizes()
        pipeline.start(*FLOWS)
        assert pipeline.stop(*FLOWS) == dict.fromkeys(FLOWS, 0), pipeline.logs()
        assert pipeline.topic_sizes() == before
        assert differences(pipeline.evidence()) == [], f"seed {SEED}"
