from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.bench.feed import Gaps, pack_chunks
from flows.bench.state import bench_config, run_state
from simulator.traffic import chunks


class Clock:
    """Wall and CPU time that the test moves."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    def __call__(self) -> tuple[float, float]:
        return self.wall_s, self.cpu_s

    def pass_by(self, wall_s: float, cpu_s: float) -> None:
        self.wall_s += wall_s
        self.cpu_s += cpu_s


def test_only_what_follows_the_warm_up_counts(tmp_path: Path) -> None:
    polls = pack_chunks(chunks(200, 1_000, 2, 2, records=50))
    warm = int(len(polls) * 0.2)
    effort = run_state(bench_config(), polls, 0.2, tmp_path)
    assert sum(one.events for one in polls) == 1_000
    assert effort.units == 1_000 - sum(one.events for one in polls[:warm]) < 1_000
    assert effort.wall_s > 0
    assert effort.cpu_s > 0


def test_the_traffic_gives_rise_to_opportunities(tmp_path: Path) -> None:
    assert run_state(bench_config(), pack_chunks(chunks(200, 2_000, 2, 2)), 0.0, tmp_path).more["opportunities"] > 0


def test_a_snapshot_takes_what_its_gap_is_longer_than_others_for_each_key() -> None:
    clock = Clock()
    gaps = Gaps(clock)
    for is_last_of_epoch in (False, False, False, True, False, True):
        gaps.asked()
        gaps.handed_out([("a", 0), ("b", 0), ("a", 1)])
        clock.pass_by(0.010, 0.008)
        if is_last_of_epoch:
            gaps.epoch_closes()
            clock.pass_by(0.100, 0.060)
    gaps.asked()
    pause = gaps.pause()
    assert pause is not None
    assert pause.snapshots == 2
    assert pause.wall_s == pytest.approx(0.050)
    assert pause.cpu_s == pytest.approx(0.030)
    assert gaps.snapshots_cpu_s() == pytest.approx(0.120)


def test_without_a_snapshot_nothing_is_said_about_its_pause() -> None:
    clock = Clock()
    gaps = Gaps(clock)
    for _ in range(3):
        gaps.asked()
        clock.pass_by(0.010, 0.008)
    assert gaps.pause() is None


def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it() -> None:
    ballast = bytearray(b"x" * (400 << 20))
    program = "from flows.bench.machine import peak_mib; print(peak_mib())"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(found.stdout) < len(ballast) >> 20
