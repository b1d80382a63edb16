"""Do two cells do twice the work of one?

    python -m benchmarks.scale [--boxes 300000] [--events 1500000] [--turns 5] [--quick] [--save] [--json]

one cell    the state's part of the ads flow, all partitions, on core 0, core 1 left idle. The yardstick
half a cell one of two cells alone: half of the partitions on core 0, core 1 left idle. What a cell does without a
            neighbour that shares caches, memory and the clock of the machine
two cells   each its half of the partitions and its own core, both at the same time
cluster     one Bytewax dataflow of two processes, each with its core: each reads half of the partitions and passes
            on to the other, pickled over TCP, the chunks whose key groups live there

Input is in memory and output is dropped, so that it is the flow that is measured and not a broker, which would need
cores of its own. A process is measured from the moment when all are warm to its own end; together they take from the
first beginning to the last end. Each writes a snapshot per second to its store, cluster or cell.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import msgspec

from benchmarks.cell import GROUPS, PARTITIONS, Raced
from benchmarks.contest import ROOT, Contestant, compare, module, tell
from benchmarks.report import Comparison, Goal, conclude, parser, report
from flows.bench.effort import Effort
from flows.bench.machine import on_core
from simulator.traffic import DESCRIPTION

ONE, HALF, TWO, CLUSTER = "one cell", "half a cell", "two cells", "cluster of two"
PROCESSES = {ONE: 1, HALF: 1, TWO: 2, CLUSTER: 2}
_GOAL = 1.7


def race(name: str, boxes: int, count: int) -> Effort:
    """Start the processes of a contestant, and add up what they took.

    Raises:
        SystemExit: One of them failed.
    """
    processes = PROCESSES[name]
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="datastreamx-bench-"))
        argv = [*module("benchmarks.cell", "rate", "--directory", directory, "--boxes", str(boxes))]
        argv += ["--events", str(count), "--count", str(processes)]
        argv += ["--addresses", ",".join(_addresses(processes))] if name == CLUSTER else ["--cells", _cells(name)]
        started: list[tuple[subprocess.Popen[str], TextIO]] = []
        for ordinal in range(processes):
            log = stack.enter_context((Path(directory) / f"log-{ordinal}").open("w+", encoding="utf-8"))
            with on_core(ordinal):
                process = subprocess.Popen(  # noqa: S603  our own command
                    [*argv, "--ordinal", str(ordinal)], stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
                )
            stack.callback(process.kill)
            started.append((process, log))
        # One that fails leaves the others waiting for it.
        while any(process.poll() is None for process, _ in started):
            _require_sound(name, started)
            time.sleep(0.05)
        _require_sound(name, started)
        found = [
            msgspec.json.decode(process.communicate()[0].strip().splitlines()[-1], type=Raced) for process, _ in started
        ]
    return together(found)


def _require_sound(name: str, started: list[tuple[subprocess.Popen[str], TextIO]]) -> None:
    for process, log in started:
        if process.poll() not in {None, 0}:
            log.seek(0)
            raise SystemExit(f"a process of {name} failed with {process.returncode}:\n{log.read()[-4000:]}")


def together(found: list[Raced]) -> Effort:
    """Of processes that worked at the same time."""
    efforts = [one.effort for one in found]
    return Effort(
        units=sum(one.units for one in efforts),
        wall_s=max(one.end_s for one in found) - min(one.begin_s for one in found),
        cpu_s=sum(one.cpu_s for one in efforts),
        peak_mib=sum(one.peak_mib for one in efforts),
    )


def _cells(name: str) -> str:
    return "1" if name == ONE else "2"


def _addresses(count: int) -> list[str]:
    """Ports that nobody listens on just now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


def main() -> int:
    """Measure and print."""
    options_of = parser("benchmarks.scale", __doc__ or "")
    options_of.add_argument("--boxes", type=int, default=300_000)
    options_of.add_argument("--events", type=int, default=1_500_000, help="of all boxes")
    options_of.add_argument("--turns", type=int, default=5)
    options_of.add_argument("--contestant", choices=[*PROCESSES], help=argparse.SUPPRESS)
    options = options_of.parse_args()
    boxes, count = (10_000, 50_000) if options.quick else (options.boxes, options.events)
    if options.contestant:
        tell(race(options.contestant, options.boxes, options.events))
        return 0
    if len(os.sched_getaffinity(0)) < 2:  # noqa: PLR2004  two cells
        raise SystemExit("two cells need two cores: on one they can only share it")
    contestants = [
        # Its processes choose their cores themselves.
        Contestant(
            name,
            module("benchmarks.scale", "--contestant", name, "--boxes", str(boxes), "--events", str(count)),
            core=None,
        )
        for name in PROCESSES
    ]
    standings = compare(contestants, 1 if options.quick else options.turns, ONE)
    comparison = Comparison(f"{boxes:,} boxes", "events", ONE, standings)
    two, cluster, half = (comparison.of(name).speed.median for name in (TWO, CLUSTER, HALF))
    conclude(
        report(
            question="scale",
            asks="Do two cells do twice the work of one?",
            command="python -m benchmarks.scale" + (" --quick" if options.quick else ""),
            data=f"{DESCRIPTION}; {PARTITIONS} partitions of {GROUPS} key groups, in memory",
            comparisons=[comparison],
            goals=[Goal("two cells: rate over one cell", _GOAL, two)],
            notes=[
                f"A neighbour leaves a cell {two / (2 * half):.0%} of the rate that it has alone.",
                f"The exchange between processes leaves a cluster {cluster / two:.0%} of the rate of two cells.",
            ],
        ),
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
