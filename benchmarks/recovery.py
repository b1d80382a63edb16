"""What the state of many boxes costs besides events: coming back, standing still for snapshots, and memory.

    python -m benchmarks.recovery [--boxes 10000,30000,100000,300000,1000000] [--turns 3] [--quick] [--save] [--json]

resume   from the start of a process until its first new event is applied: interpreter and imports, the machine code of
         the state machine, the guard that checks the store, Bytewax's own reading, boxes out of their bytes
pause    the longest that an event waits within an epoch of a second, from its arrival to its fact, while each box sends
         one event per 30 s. At the end of an epoch Bytewax takes a snapshot of every key group that had an event, which
         is all of them, and writes it, in the thread that applies the events
memory   resident bytes per box, of a process that has had a tune, a display and a heartbeat of each

Only the state's part of the flow: no broker, no auctions. `benchmarks.restart` kills the whole of it. Everything has
core 0 to itself. One epoch in a hundred may be worse than p99 says, so the largest pause is told, too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import msgspec

from benchmarks.cell import EVENTS_PER_BOX, GROUPS, PARTITIONS, Paused, Resumed
from benchmarks.contest import ROOT, module
from benchmarks.machine import Spread, percentile, spread
from benchmarks.report import Figure, Goal, Report, conclude, parser, report
from flows.bench.effort import Effort
from flows.bench.machine import on_core
from simulator.traffic import DESCRIPTION

RESUME_BOXES, PAUSE_BOXES, MEMORY_BOXES = 300_000, 100_000, 1_000_000
"""Fleets of which there are goals."""
STEPS = {
    "imports_s": "interpreter and imports",
    "compiled_s": "machine code",
    "store_s": "store checked",
    "bytewax_s": "Bytewax's reading",
    "states_s": "boxes restored",
}
_TRIALS_S = 2.0
"""Of a pause's run, before and after the epochs that count."""

_PATIENCE_S = 600.0

Found = TypeVar("Found", Resumed, Paused, Effort, None)


def _play(task: str, directory: Path, boxes: int, kind: type[Found], *more: str) -> Found:
    """One process of `benchmarks.cell`.

    Raises:
        SystemExit: It failed.
    """
    argv = [*module("benchmarks.cell", task, "--directory", str(directory), "--boxes", str(boxes)), *more]
    if task == "resume":
        argv += ["--started", str(time.monotonic())]
    with on_core(0):
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT, timeout=_PATIENCE_S)  # noqa: S603  our own command
    if done.returncode != 0:
        raise SystemExit(f"{task} failed with {done.returncode}: {' '.join(argv)}\n{done.stderr[-4000:]}")
    return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=kind)


def _resumes(directory: Path, boxes: int, turns: int) -> Iterator[Figure]:
    found = [_play("resume", directory, boxes, Resumed) for _ in range(turns)]
    where = f"at {boxes:,} boxes"
    yield Figure(f"resume {where}", "s", spread([one.total_s for one in found]))
    for field, name in STEPS.items():
        yield Figure(f"resume {where}: {name}", "s", spread([getattr(one, field) for one in found]))
    yield Figure(f"resume {where}: memory per box", "bytes", spread([one.grown_mib * 2**20 / boxes for one in found]))
    yield Figure(f"resume {where}: peak memory", "MiB", spread([one.peak_mib for one in found]))


def _pauses(directory: Path, boxes: int, seconds: float) -> Iterator[Figure]:
    found = _play("pause", directory, boxes, Paused, "--seconds", str(seconds + _TRIALS_S))
    where, pauses_ms = f"at {boxes:,} boxes", found.pauses_ms
    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        yield Figure(f"pause {where}: {name}", "ms", _one(percentile(pauses_ms, share), len(pauses_ms)))
    yield Figure(f"pause {where}: CPU of the worker", "ms", spread(found.cpus_ms))
    yield Figure(f"pause {where}: in snapshot() of boxes", "ms", spread(found.snapshots_ms))
    yield Figure(f"pause {where}: bytes per box", "bytes", spread([one / boxes for one in found.snapshot_bytes]))
    yield Figure(f"steady {where}: p50 of a chunk's wait", "ms", _one(found.waits_ms, 1))
    yield Figure(f"steady {where}: core in use", "share", _one(found.cpu_share, 1))


def _one(figure: float, count: int) -> Spread:
    return Spread(figure, figure, figure, count)


def _measure(boxes: int, directory: Path, options: argparse.Namespace) -> list[Figure]:
    _say(f"{boxes:,} boxes: making their store")
    _play("make", directory, boxes, type(None))
    _say("resume")
    turns = 1 if options.quick else options.turns
    found = [*_resumes(directory, boxes, turns)]
    _say("pause")
    # The goal's fleet needs a hundred epochs for its p99; the others tell how it grows.
    seconds = 4.0 if options.quick else options.seconds if boxes != PAUSE_BOXES else 4 * options.seconds
    found += _pauses(directory, boxes, seconds)
    _say("memory")
    effort = _play("memory", directory, boxes, Effort)
    return [*found, Figure(f"memory at {boxes:,} boxes", "bytes per box", _one(effort.more["bytes_per_box"], 1))]


def goals_of(figures: Sequence[Figure]) -> Iterator[Goal]:
    """Of those fleets that were measured."""
    found = {figure.name: figure.value.median for figure in figures}
    for name, text, target in (
        (f"resume at {RESUME_BOXES:,} boxes", "{}, seconds", 3.0),
        (f"pause at {PAUSE_BOXES:,} boxes: p99", "{}, ms", 30.0),
        (f"memory at {MEMORY_BOXES:,} boxes", "{}, bytes per box", 600.0),
    ):
        if name in found:
            yield Goal(text.format(name), target, found[name], at_least=False)


def draw(found: Report, path: Path) -> None:
    """Lines against boxes: resume by its steps, pauses, memory."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "datastreamx"  # without it the same data gives another file each time
    figures = {figure.name: figure.value for figure in found.figures}
    fleets = [int(name.split()[2].replace(",", "")) for name in figures if name.startswith("memory at")]

    def line(pattern: str) -> list[float]:
        return [figures[pattern.format(f"{boxes:,}")].median for boxes in fleets]

    drawing, (resume, pause, memory) = plt.subplots(1, 3, figsize=(12, 3.6))
    resume.stackplot(
        fleets,
        *(line(f"resume at {{}} boxes: {name}") for name in STEPS.values()),
        labels=STEPS.values(),
        colors=["#a9bcd0", "#7c98b3", "#c9d6df", "#537895", "#2a6f97"],
    )
    resume.set_title("resume, s", fontsize=9)
    for name in ("max", "p99", "p50"):
        pause.plot(fleets, line(f"pause at {{}} boxes: {name}"), marker="o", label=name)
    for name, label in (("CPU of the worker", "CPU"), ("in snapshot() of boxes", "in snapshot()")):
        pause.plot(fleets, line(f"pause at {{}} boxes: {name}"), marker="o", linestyle=":", label=label)
    pause.set_title("pause per epoch, ms", fontsize=9)
    memory.plot(fleets, line("memory at {} boxes"), marker="o", label="grown event by event")
    memory.plot(fleets, line("resume at {} boxes: memory per box"), marker="o", linestyle=":", label="after a resume")
    memory.set_title("memory, bytes per box", fontsize=9)
    for axis in (resume, pause, memory):
        axis.set_xscale("log")
        axis.set_xlabel("boxes")
        axis.set_ylim(bottom=0)
        axis.grid(visible=True, alpha=0.3)
        axis.legend(fontsize=7)
    drawing.tight_layout()
    drawing.savefig(path, metadata={"Date": None})
    plt.close(drawing)


def _say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")


def main() -> int:
    """Measure and print."""
    options_of = parser("benchmarks.recovery", __doc__ or "")
    options_of.add_argument("--boxes", default="10000,30000,100000,300000,1000000", help="fleets, e.g. %(default)s")
    options_of.add_argument("--turns", type=int, default=3, help="resumes of each fleet")
    options_of.add_argument("--seconds", type=float, default=20.0, help="of steady traffic of each fleet")
    options = options_of.parse_args()
    fleets = [5_000] if options.quick else [int(one) for one in options.boxes.split(",")]
    figures: list[Figure] = []
    for boxes in fleets:
        with tempfile.TemporaryDirectory(prefix="datastreamx-bench-") as folder:
            figures += _measure(boxes, Path(folder), options)
    conclude(
        report(
            question="recovery",
            asks="What does the state of many boxes cost besides events: coming back, snapshots, memory?",
            command="python -m benchmarks.recovery" + (" --quick" if options.quick else ""),
            data=f"{DESCRIPTION}; {EVENTS_PER_BOX} of each box before the clock starts; {PARTITIONS} partitions of "
            f"{GROUPS} key groups; an epoch of 1 s",
            figures=figures,
            goals=[*goals_of(figures)],
            notes=[
                "A pause is what the event that waits longest in an epoch sees, the work of its own chunk included."
            ],
        ),
        options,
        draw,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
