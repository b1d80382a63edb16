from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from datastreamx.cli.bench import command
from datastreamx.cli.bench.render import verdict
from datastreamx.cli.bench.report import Measured, Round, report_of
from flows.bench.machine import Machine
from tests.cli.running import Cli

MACHINE = Machine("EPYC", 2, "3.11.0", "Linux", 24_576)
ROUND = Round(
    events=1_000_000,
    wall_s=4.0,
    cpu_s=4.0,
    snapshots=10,
    snapshots_cpu_s=1.0,
    snapshot_s=0.05,
    snapshot_cpu_s=0.04,
    opportunities=0.1,
)
MEASURED = Measured(boxes=100_000, rounds=[ROUND], process_mib=256.0, state_mib=100.0, call_cpu_us=200.0)


def test_a_short_run_tells_what_the_machine_carries(cli: Cli) -> None:
    ended = cli("bench", "--boxes", "2000", "--seconds", "0.1", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = ended.json
    assert found["measured_boxes"] == 2_000
    assert found["snapshots"] > 0
    assert found["state"]["boxes"] > found["auctions"]["boxes"] > 0
    assert found["state"]["cells"] == found["cores"] >= 1
    assert found["costs"]["event_cpu_us"] * found["opportunities_per_event"] * found["call_cpu_us"] > 0


def test_snapshots_are_counted_once_and_apart_from_events() -> None:
    report = report_of(MEASURED, MACHINE, 2, 3)
    assert (report.event_cpu_us, report.costs.event_cpu_us) == (4.0, 3.0)
    assert report.costs.snapshot_cpu_us == pytest.approx(0.4)
    assert report.costs.auctions_cpu_us == pytest.approx(0.1 * 3 * 200.0)
    assert report.state.boxes == 2_000_000


def test_rounds_are_summed_up_by_their_median() -> None:
    slow = msgspec.structs.replace(ROUND, wall_s=40.0, cpu_s=40.0)
    report = report_of(msgspec.structs.replace(MEASURED, rounds=[ROUND, slow, ROUND]), MACHINE, 2, 3)
    assert (report.events_per_s, report.seconds) == (250_000.0, 48.0)


def test_the_verdict_is_in_words() -> None:
    state, auctions, rest = verdict(report_of(MEASURED, MACHINE, 2, 3))
    assert state.startswith(
        "This machine (2 cores, EPYC, 24.0 GiB) carries about 2,000,000 boxes in 2 cells: one event per box each 30 s"
    )
    assert "auction among 3 aggregators at every opportunity, 10% of the events, it carries about 400,000" in auctions
    assert "Kafka" in rest


def test_without_aggregators_nothing_is_said_about_auctions() -> None:
    assert len(verdict(report_of(MEASURED, MACHINE, 2, 0))) == 2


def test_a_busy_machine_is_told() -> None:
    crowded = msgspec.structs.replace(MEASURED, rounds=[msgspec.structs.replace(ROUND, wall_s=10.0)])
    assert "had 40% of its core" in verdict(report_of(crowded, MACHINE, 2, 3))[-1]


def test_little_memory_is_named_as_the_limit() -> None:
    small = msgspec.structs.replace(MACHINE, memory_mib=1_100)
    assert "The limit is memory" in verdict(report_of(MEASURED, small, 2, 3))[0]


def test_a_person_reads_the_verdict_first(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(boxes: int, seconds: float, tell: Callable[[str], None]) -> Any:
        tell(f"{boxes} {seconds}")
        return MEASURED

    monkeypatch.setattr(command, "_measure", measured)
    ended = cli("bench")
    assert ended.out.startswith("This machine (")
    assert "CPU per event" in ended.out
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert "snapshot of 100,000 boxes 50 ms" in lines
    assert any(line.startswith("the same of ") for line in lines)


def test_a_measuring_process_that_dies_is_told_with_what_it_said(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    ended = cli("bench")
    assert ended.code == 1
    assert ended.err.startswith("error: the measuring process ended with code 1")


@pytest.mark.parametrize("arguments", [("--boxes", "0"), ("--seconds", "0"), ("--aggregators", "-1")])
def test_impossible_sizes_are_wrong_usage(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli("bench", *arguments).code == 2
