"""Both flows as processes that are killed and stopped at random moments, against an oracle without faults.

`DATASTREAMX_TEST_SEED` chooses viewers, faults and moments.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import pytest

from datastreamx.model.events import Heartbeat
from datastreamx.wire.events import encode_event
from tests.integration.brokers import Broker, Record, produce
from tests.integration.oracle import Evidence, decided, differences, expect
from tests.integration.pipeline import FlowName, Pipeline, Servers, now_ms
from tests.operators.model.reading import Viewed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SEED = int(os.environ.get("DATASTREAMX_TEST_SEED", "1"))
BOXES = 300
KILLS = 4

POISON: tuple[tuple[bytes | None, bytes | None, str], ...] = (
    (b"stb-1", None, "no_value"),
    (b"stb-1", b"", "malformed"),
    (b"stb-1", b"\xff\xfe\x00", "malformed"),
    (b"stb-1", b"[" * 10_000, "malformed"),
    (b"stb-1", b"x" * 900_000, "oversized"),
    (b"stb-1", b'{"type": "reboot", "box_id": "stb-1"}', "unknown_type"),
    (b"stb-1", b'{"type": ["tune"]}', "invalid"),
    (
        None,
        b'{"type":"heartbeat","event_id":"e","box_id":"stb-1","seq":1,"event_time_ms":1700000000000}',
        "key_mismatch",
    ),
)
"""Key, value and the reason for which it has to be set aside."""


@pytest.fixture(scope="module")
def aftermath(
    broker: Broker, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Evidence, list[int | None]]]:
    """What is left of a run with kills and clean stops, and the exit codes of these."""
    with Pipeline(tmp_path_factory.mktemp("chaos"), broker, servers) as pipeline:
        pipeline.apply()
        pipeline.start("ads", "warehouse")
        with pipeline.fleet(boxes=BOXES, seed=SEED) as fleet, ThreadPoolExecutor() as pool:
            pipeline.wait_until(lambda: pipeline.counts()["ad_decisions"] > 0, "the first decision is a row")
            names: tuple[FlowName, ...] = ("ads", "warehouse")
            codes = [*pool.map(lambda name: torment(pipeline, name), names)]
            pipeline.wait_for_variety()
            assert fleet.stop(grace_s=90) == 0, fleet.log_tail()
        topic, partitions = pipeline.config.topics.events, pipeline.config.events.partitions
        produce(broker, topic, [(number % partitions, key, value) for number, (key, value, _) in enumerate(POISON)])
        pipeline.wait_until_reading("ads", "warehouse")
        # In the middle of what is left to do; what comes afterwards proves that the resume is over.
        stopped = [*pipeline.stop("ads", "warehouse").values()]
        pipeline.start("ads", "warehouse")
        produce(broker, topic, last_signs_of_life(partitions))
        pipeline.wait_for_rows()
        stopped += pipeline.stop("ads", "warehouse").values()
        yield pipeline.evidence(), [*codes[0], *codes[1], *stopped]


def torment(pipeline: Pipeline, name: FlowName) -> list[int | None]:
    """Kill a flow again and again, mostly while it works, now and then while it starts; once, stop it cleanly."""
    rng = random.Random(f"{SEED}/{name}")
    child = pipeline.flows[name]
    codes = []
    for number in range(KILLS):
        if number != 1:
            pipeline.wait_until_reading(name)
        sleep(rng.uniform(0, 1.5))  # a random moment is the very point
        assert child.kill() == -signal.SIGKILL, f"seed {SEED}: {name} had ended by itself\n{pipeline.logs()}"
        child.start()
    pipeline.wait_until_reading(name)
    codes.append(child.stop(grace_s=90))
    child.start()
    return codes


def last_signs_of_life(partitions: int) -> list[Record]:
    at_ms = now_ms()
    events = [
        Heartbeat(event_id=f"last-{n}", box_id=f"stb-last-{n}", seq=1, event_time_ms=at_ms) for n in range(partitions)
    ]
    return [(n, event.box_id.encode(), encode_event(event)) for n, event in enumerate(events)]


def test_run_with_kills_leaves_what_a_run_without_any_would(aftermath: tuple[Evidence, list[int | None]]) -> None:
    evidence, _ = aftermath
    assert differences(evidence) == [], f"seed {SEED}"


def test_run_with_kills_met_everything_that_it_is_about(aftermath: tuple[Evidence, list[int | None]]) -> None:
    evidence, _ = aftermath
    expected, log = expect(evidence.config, evidence.events), decided(evidence.decisions)
    assert min(len(expected.sessions), expected.late, expected.duplicates, evidence.tables["impressions"].total()) > 0
    assert {reason for _, _, reason in POISON} | {"clock_skew"} == set(expected.dead_letters.values())
    assert {"won", "no_bid"} <= {decision.status for decision in log.decisions}
    assert {opportunity.trigger for opportunity in expected.opportunities.values()} == {"dwell", "ad_break"}


def test_clean_stop_ends_with_code_0(aftermath: tuple[Evidence, list[int | None]]) -> None:
    _, codes = aftermath
    assert codes == [0] * 6, f"seed {SEED}"


Spoil = Callable[[Evidence], Evidence]


def lose_a_row(table: str) -> Spoil:
    def spoil(evidence: Evidence) -> Evidence:
        rows = evidence.tables[table].copy()
        rows.subtract([next(iter(rows))])
        return dataclasses.replace(evidence, tables={**evidence.tables, table: +rows})

    return spoil


def double_a_row(table: str) -> Spoil:
    def spoil(evidence: Evidence) -> Evidence:
        rows = evidence.tables[table].copy()
        rows.update([next(iter(rows))])
        return dataclasses.replace(evidence, tables={**evidence.tables, table: rows})

    return spoil


SPOILT: dict[str, Spoil] = {
    **{f"lost-{name}": lose_a_row(name) for name in ("box_events", "viewing_sessions", "bids", "impressions")},
    **{f"doubled-{name}": double_a_row(name) for name in ("box_events", "viewing_sessions", "ad_decisions")},
    "second-decision": lambda e: dataclasses.replace(e, decisions=[*e.decisions, e.decisions[0]]),
    "lost-decision": lambda e: dataclasses.replace(e, decisions=e.decisions[1:]),
    "lost-dead-letter": lambda e: dataclasses.replace(e, dead_letters=dict([*e.dead_letters.items()][1:])),
    "stale-state": lambda e: dataclasses.replace(e, states={**e.states, next(iter(e.states)): Viewed(0, {})}),
    "lost-rollup": lambda e: dataclasses.replace(e, rollups=dict([*e.rollups.items()][1:])),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_oracle_finds_a_planted_fault(aftermath: tuple[Evidence, list[int | None]], spoil: Spoil) -> None:
    evidence, _ = aftermath
    assert differences(spoil(evidence)) != []


def test_clean_stops_of_the_ads_flow_repeat_nothing(broker: Broker, servers: Servers, tmp_path: Path) -> None:
    with Pipeline(tmp_path, broker, servers) as pipeline:
        pipeline.apply()
        pipeline.start("ads")
        rng = random.Random(SEED)
        with pipeline.fleet(boxes=BOXES, seed=SEED) as fleet:
            pipeline.wait_until(lambda: len(pipeline.read_decisions()) > 0, "the first decision")
            for _ in range(2):
                sleep(rng.uniform(0.2, 1.5))  # any moment at which events flow
                assert pipeline.stop("ads") == {"ads": 0}, pipeline.logs()
                pipeline.start("ads")
            assert fleet.stop(grace_s=90) == 0, fleet.log_tail()
        expected = expect(pipeline.config, pipeline.read_events())
        pipeline.wait_until(lambda: pipeline.read_fact_positions().keys() >= expected.positions.keys(), "all facts")
        pipeline.wait_until(
            lambda: decided(pipeline.read_decisions()).firsts.keys() >= expected.opportunities.keys(), "all decisions"
        )
        assert pipeline.stop("ads") == {"ads": 0}, pipeline.logs()

        assert pipeline.read_fact_positions() == expected.positions, f"seed {SEED}"
        assert decided(pipeline.read_decisions()).repeated == {}, f"seed {SEED}"
        assert pipeline.viewing_states() == expected.states, f"seed {SEED}"
        before = pipeline.topic_sizes()
        pipeline.start("ads")
        assert pipeline.stop("ads") == {"ads": 0}, pipeline.logs()
        assert pipeline.topic_sizes() == before, f"seed {SEED}"


def test_stop_in_the_middle_of_the_start_is_clean(broker: Broker, servers: Servers, tmp_path: Path) -> None:
    with Pipeline(tmp_path, broker, servers) as pipeline:
        pipeline.apply()
        for name in ("ads", "warehouse"):
            store = tmp_path / "recovery" / f"{name}-0"
            pipeline.flows[name].start()
            pipeline.wait_until(store.exists, f"flow {name} has begun to start")
            assert pipeline.stop(name) == {name: 0}, pipeline.logs()
