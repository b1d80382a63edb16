"""Hundreds of histories, each of its own seed: whatever is done to the product, every invariant holds."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.simulation.coverage import missing
from tests.simulation.history import History, Options, Outcome, virtual_time
from tests.simulation.plants import PLANTS, planted
from tests.simulation.report import failure
from tests.simulation.size import EVENTS_MAX, EVENTS_MIN, draw_events
from tests.simulation.verdict import DECISIONS, GOES_ON, NOTICES, ROWS, STATES
from tests.simulation.world import VirtualTime

FIRST_SEED = 1
HISTORIES = 300
SEEDS_PER_PLANT = 300
ROOT = Path(__file__).parents[2]


@pytest.fixture(name="clock")
def _clock() -> Iterator[VirtualTime]:
    with virtual_time() as clock:
        yield clock


@pytest.mark.timeout(600)
def test_every_invariant_holds_in_every_history_and_faults_of_every_kind_happened(clock: VirtualTime) -> None:
    seen: Counter[str] = Counter()
    broken: list[Outcome] = []
    for seed in range(FIRST_SEED, FIRST_SEED + HISTORIES):
        outcome = History(seed, clock).run()
        seen.update(outcome.seen)
        if outcome.broken:
            broken.append(outcome)
    assert not broken, "\n\n".join(map(failure, broken[:3]))
    assert not missing(seen, HISTORIES), missing(seen, HISTORIES)


CAUGHT_BY = {
    "lossy sink": {ROWS},
    "early flush": {ROWS, GOES_ON},
    "stale key group": {STATES, ROWS},
    "no read-back": {DECISIONS},
    "marks forgotten": {ROWS},
    "firsts forgotten": {ROWS},
    "flights forgotten": {DECISIONS},
    "acknowledged before settled": {ROWS},
    "BigQuery not waited for": {ROWS},
    "double segments after a re-shard": {GOES_ON},
    "lost segments after a re-shard": {ROWS},
    "notice sent before it is armed": {NOTICES},
    "notice sent again after a crash": {NOTICES},
    "late push": {DECISIONS},
    "early finalize": {GOES_ON},
    "rows of an unfinished epoch": {STATES, ROWS},
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", sorted(PLANTS))
def test_a_planted_bug_breaks_the_invariant_that_it_should(plant: str, clock: VirtualTime) -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS_PER_PLANT):
        broken = History(seed, clock, planted(plant)).run().broken
        if CAUGHT_BY[plant] & broken.by_invariant.keys():
            return
    pytest.fail(f"{plant}: not caught in {SEEDS_PER_PLANT} histories")


def test_a_seed_repeats_its_history_step_by_step_in_another_process() -> None:
    here = _digest(3)
    code = "from tests.simulation.test_histories import _digest; print(_digest(3))"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    there = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert there.stdout.strip() == here


def test_the_command_shares_histories_out_to_processes_and_sums_up() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--seed", "3", "--runs", "2", "--jobs", "2", "--json"]
    run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=120)
    summary = json.loads(run.stdout)
    assert (summary["histories"], summary["broken"]) == (2, [])
    # Two histories are too few to have seen every fault, and the command says so.
    assert run.returncode == 1
    assert summary["missing"]


def test_most_histories_are_small_and_some_are_larger_than_any_test_would_be_by_hand() -> None:
    sizes = sorted(draw_events(Random(seed)) for seed in range(2_000))
    assert sizes[0] == EVENTS_MIN
    assert sizes[1_000] < 20
    assert sum(size >= 90 for size in sizes) >= 20
    assert 200 < sizes[-1] <= EVENTS_MAX


def test_different_seeds_are_different_histories() -> None:
    assert len({_digest(seed) for seed in (3, 4, 5)}) == 3


def _digest(seed: int) -> str:
    """Of every step of a history."""
    with virtual_time() as clock:
        trace = History(seed, clock, Options(with_trace=True)).run().trace
    assert trace
    return hashlib.sha256(repr(trace).encode()).hexdigest()
