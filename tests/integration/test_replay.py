"""Replays against the real pipeline: a store that was lost, and rows anew in another dataset.

`DATASTREAMX_TEST_SEED` chooses viewers and faults.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from datastreamx.cli.replay.command import STOPPED
from datastreamx.errors import StateMismatchError
from datastreamx.model.events import Heartbeat
from datastreamx.snapshots import unseal
from datastreamx.tables import IMPRESSIONS, MINUTE_ROLLUPS, TABLES, Row
from datastreamx.wire.events import encode_event
from flows.recovery.store import read_store
from simulator.bigquery.faults import Fault, FaultPlan
from simulator.bigquery.handle import LocalBigQuery
from simulator.processes import Child
from sources.kafka.replay import PART
from tests.integration.brokers import Broker, Record, produce
from tests.integration.oracle import Evidence, decided, differences, expect
from tests.integration.pipeline import Pipeline, Servers, environment, now_ms
from tests.integration.test_pipeline import last_signs_of_life

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SEED = int(os.environ.get("DATASTREAMX_TEST_SEED", "1"))
BOXES = 200
CROWD_BOXES = 100
CROWD_EVENTS = 60
ANEW = "rows_anew"


@dataclass
class Aftermath:
    """What is left of a run whose ads store was lost, and of a replay of its rows that was killed on the way."""

    evidence: Evidence
    store_replay: dict[str, Any]
    rows_replay: dict[str, Any]
    ends: list[int | None]
    decisions_before: set[str]
    rows: dict[str, Counter[Row]] = field(default_factory=dict)
    rollups: dict[Any, dict[str, int]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def aftermath(broker: Broker, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    with Pipeline(tmp_path_factory.mktemp("replay"), broker, servers) as pipeline:
        pipeline.apply()
        pipeline.start("ads", "warehouse")
        with pipeline.fleet(boxes=BOXES, seed=SEED) as fleet:
            pipeline.wait_until(lambda: pipeline.counts()["impressions"] > 0, "the first impression is a row")
            assert pipeline.flows["ads"].kill() == -signal.SIGKILL
            decisions_before = {*decided(pipeline.read_decisions()).firsts}
            pipeline.wait_until(
                lambda: passed_over(pipeline, decisions_before), "an opportunity passes while nobody decides"
            )
            shutil.rmtree(pipeline.store("ads"))
            store_replay = replay(pipeline, "--from", "beginning")
            pipeline.start("ads")
            after = len(decisions_before) + store_replay["decisions_expired"]
            pipeline.wait_until(lambda: len(decided(pipeline.read_decisions()).firsts) > after, "a decision afterwards")
            assert fleet.stop(grace_s=90) == 0, fleet.log_tail()
        partitions = pipeline.config.events.partitions
        produce(broker, pipeline.config.topics.events, [*crowd(partitions, now_ms()), *last_signs_of_life(partitions)])
        pipeline.wait_for_rows()
        assert pipeline.stop("ads", "warehouse") == {"ads": 0, "warehouse": 0}, pipeline.logs()
        evidence = pipeline.evidence()
        ends = ended_on_the_way(pipeline, servers.bigquery)
        rows_replay = replay(pipeline, "--from", "beginning", "--dataset", ANEW)
        found = Aftermath(evidence, store_replay, rows_replay, ends, decisions_before)
        bigquery = msgspec.structs.replace(pipeline.config.bigquery, dataset=ANEW)
        pipeline.config = msgspec.structs.replace(pipeline.config, bigquery=bigquery)
        found.rows = {name: pipeline.rows(name) for name in TABLES if name != MINUTE_ROLLUPS.name}
        found.rollups = pipeline.rollup_sums()
        yield found


def passed_over(pipeline: Pipeline, decisions: set[str]) -> bool:
    """Whether the deadline of an opportunity without a decision is over."""
    opportunities = expect(pipeline.config, pipeline.read_events()).opportunities
    return any(one.deadline_ms < now_ms() for auction, one in opportunities.items() if auction not in decisions)


def crowd(partitions: int, at_ms: int) -> list[Record]:
    """Enough records that a replay takes a while."""
    events = [
        Heartbeat(event_id=f"{box}-{seq}", box_id=f"stb-crowd-{box}", seq=seq, event_time_ms=at_ms)
        for seq in range(CROWD_EVENTS)
        for box in range(CROWD_BOXES)
    ]
    places = [number % CROWD_BOXES % partitions for number in range(len(events))]
    return [(p, event.box_id.encode(), encode_event(event)) for p, event in zip(places, events, strict=True)]


def command(config: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "datastreamx.cli", "replay", "--config", str(config), "--json", *options]


def replay(pipeline: Pipeline, *options: str) -> dict[str, Any]:
    argv = command(pipeline.config_path, *options)
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"seed {SEED}\n{done.stdout}\n{done.stderr}"
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def ended_on_the_way(pipeline: Pipeline, bigquery: LocalBigQuery) -> list[int | None]:
    """Begin a replay of rows, stop it when some of it is durable, and kill it when it goes on; both exit codes.

    Each flush takes seconds meanwhile, and so does the last one: the replay cannot be over before it is ended.
    """
    hasty = pipeline.config_path.with_name("hasty.toml")
    text = pipeline.config_path.read_text(encoding="utf-8")
    for setting, hasty_setting in {
        "epoch_ms = 400": "epoch_ms = 100",
        "groups_per_partition = 2": "groups_per_partition = 2\nchunk_records = 1",
    }.items():
        assert setting in text
        text = text.replace(setting, hasty_setting)
    hasty.write_text(text, encoding="utf-8")
    argv = command(hasty, "--from", "beginning", "--dataset", ANEW)
    store = Path(pipeline.config.recovery.directory) / f"replay-{ANEW}"
    bigquery.inject(FaultPlan(flush_rows=Fault(delay_ms=5_000)))
    try:
        with Child("replay", argv, log_path=pipeline.directory / "replay.log", env=environment()) as child:
            wait_for_progress(child, store)
            stopped = child.stop(grace_s=60)
            child.start()
            while "replay.resumed" not in child.output() and child.poll() is None:
                time.sleep(0.01)
            return [stopped, child.kill()]
    finally:
        bigquery.heal()


def wait_for_progress(child: Child, store: Path) -> None:
    before = durable_records(store)
    while durable_records(store) <= before and child.poll() is None:
        time.sleep(0.01)


def durable_records(store: Path) -> int:
    """Records of all topics that a killed replay would not read again."""
    try:
        row = read_store(store).by_key.get(("replay.topics", PART))
    except StateMismatchError:
        # It is being made, or written.
        return 0
    if row is None or row.value is None:
        return 0
    topics: dict[str, dict[str, int]] = msgspec.json.decode(unseal(row.value, "the source"))["offsets"]
    return sum(offset for offsets in topics.values() for offset in offsets.values())


def test_run_with_a_lost_store_leaves_what_a_run_without_would(aftermath: Aftermath) -> None:
    assert differences(aftermath.evidence) == [], f"seed {SEED}"


def test_decisions_in_the_log_are_reused(aftermath: Aftermath) -> None:
    assert aftermath.store_replay["is_finished"]
    assert aftermath.store_replay["decisions_reused"] == len(aftermath.decisions_before) > 0
    assert decided(aftermath.evidence.decisions).repeated == {}


def test_opportunities_of_the_outage_are_recorded_as_expired(aftermath: Aftermath) -> None:
    assert aftermath.store_replay["decisions_expired"] > 0


def test_rows_anew_equal_those_of_the_live_run(aftermath: Aftermath) -> None:
    live = aftermath.evidence
    for name, rows in aftermath.rows.items():
        assert rows == live.tables[name], f"seed {SEED}, table {name}"
    assert aftermath.rollups == live.rollups, f"seed {SEED}"
    assert aftermath.rows[IMPRESSIONS.name].total() > 0


def test_replay_that_was_stopped_and_killed_goes_on_where_it_was(aftermath: Aftermath) -> None:
    assert aftermath.ends == [STOPPED, -signal.SIGKILL]
    assert aftermath.rows_replay["is_resumed"]
    # On a slow machine the kill may meet it when all is read and not all is visible.
    assert aftermath.rows_replay["events_read"] < len(aftermath.evidence.events)


@pytest.mark.parametrize("options", [("--from", "beginning", "--until", "1h"), ("--from", "1h")], ids=["until", "from"])
def test_span_is_what_the_timestamps_of_kafka_say(
    broker: Broker, servers: Servers, tmp_path: Path, options: tuple[str, ...]
) -> None:
    begins_late = options[:2] != ("--from", "beginning")
    if begins_late:
        broker.require_cluster()  # The local broker knows no times: it would give all that it holds.
    with Pipeline(tmp_path, broker, servers, flows=()) as pipeline:
        pipeline.apply()
        partitions, topic = pipeline.config.events.partitions, pipeline.config.topics.events
        long_ago_ms = now_ms() - 7_200_000
        old, new = crowd(partitions, long_ago_ms)[:60], crowd(partitions, now_ms())[100:140]
        produce(broker, topic, old, timestamp_ms=long_ago_ms)
        produce(broker, topic, new)
        summary = replay(pipeline, *options, "--dataset", f"span_{'late' if begins_late else 'early'}")
    assert summary["rows"]["box_events"] == summary["events_read"] == len(new if begins_late else old)
    assert bool(summary["caveats"]) == begins_late
