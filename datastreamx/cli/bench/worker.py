"""The measuring process, whose every thread stays on one core: `python -m datastreamx.cli.bench.worker`.

    python -m datastreamx.cli.bench.worker BOXES SECONDS

Writes lines to standard output: what it does next, each as a JSON string, and at last a `Measured`.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from datastreamx.cli.bench.report import Measured, Round
from datastreamx.errors import CrashError, DatastreamXError
from datastreamx.interpreter import spare_garbage_collection
from datastreamx.log import configure_logging
from flows.bench.auctions import config_for, run_all_won
from flows.bench.feed import Gaps, Packed, pack_chunks
from flows.bench.machine import cores, on_core, resident_mib
from flows.bench.state import bench_config, run_state
from operators.viewing.warm import warm_up as compile_viewing
from simulator.aggregators.handle import LocalAggregator
from simulator.traffic import chunks

PARTITIONS, GROUPS = 16, 4
"""The default fleet then fills a key group as 400,000 boxes fill those of 64 partitions: a key costs, however full."""
EPOCH_MS, EPOCH_MS_PER_BOX = 200, 0.002
"""Shorter than in production, so that a few seconds show many snapshots, yet several times as long as one takes."""
LAPS, WARM_LAPS = 5, 2
"""Events of each box, at least; and how many of them are the warm-up."""
EVENTS = 150_000
"""At least, so that there are snapshots among them."""
AUCTIONS, WARM_UP_AUCTIONS, AGGREGATORS, IN_FLIGHT = 1_000, 100, 3, 64


def measure(boxes: int, seconds: float, tell: Callable[[str], None]) -> Measured:
    """State for `seconds`, then auctions.

    Args:
        boxes: Size of the fleet.
        seconds: At least one round is run, however long that takes.
        tell: Called with what is done next.

    Raises:
        CrashError: The run was too short to see a snapshot.
    """
    compile_viewing()
    spare_garbage_collection()
    process_mib = resident_mib()
    events = max(LAPS * boxes, EVENTS)
    tell(f"making {events:,} events of {boxes:,} boxes")
    polls = pack_chunks(chunks(boxes, events, PARTITIONS, GROUPS))
    gc.freeze()
    before_mib, state_mib = resident_mib(), 0.0
    epoch_ms = max(EPOCH_MS, int(boxes * EPOCH_MS_PER_BOX))
    rounds: list[Round] = []
    begin_s = time.monotonic()
    while not rounds or time.monotonic() - begin_s < seconds:
        tell(f"state of {boxes:,} boxes, round {len(rounds) + 1}, {time.monotonic() - begin_s:.0f} of {seconds:g} s")
        gaps = Gaps()
        rounds.append(_round(polls, WARM_LAPS * boxes / events, epoch_ms, gaps))
        # Later rounds find memory that the first one has left.
        state_mib = state_mib or max(0.0, gaps.resident_mib - before_mib)
    tell("auctions")
    return Measured(
        boxes=boxes, rounds=rounds, process_mib=process_mib, state_mib=state_mib, call_cpu_us=_call_cpu_us()
    )


def _round(polls: list[Packed], warm_up: float, epoch_ms: int, gaps: Gaps) -> Round:
    with tempfile.TemporaryDirectory(prefix="datastreamx-bench-") as folder, on_core(cores()[0]):
        effort = run_state(bench_config(epoch_ms), polls, warm_up, Path(folder), gaps)
    pause = gaps.pause()
    if pause is None:
        raise CrashError("the run was over before a snapshot was taken; measure more boxes: give a larger --boxes")
    keys = PARTITIONS * GROUPS
    return Round(
        events=effort.units,
        wall_s=effort.wall_s,
        cpu_s=effort.cpu_s,
        snapshots=pause.snapshots,
        snapshots_cpu_s=gaps.snapshots_cpu_s(),
        snapshot_s=pause.wall_s * keys,
        snapshot_cpu_s=pause.cpu_s * keys,
        opportunities=effort.more["opportunities"] / sum(one.events for one in polls),
    )


def _call_cpu_us() -> float:
    """CPU of one call, of aggregators that answer at once from another core, where there is one."""
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="datastreamx-bench-")))
        aggregator = LocalAggregator("instant", "openrtb", log_dir=folder, profile="instant")
        with on_core(cores()[-1]):
            resources.enter_context(aggregator)
        config = config_for(
            {f"a{number}": aggregator.url for number in range(AGGREGATORS)},
            "timeout_ms = 20000\ncapacity = 10000",
            "dynamic_timeout = false\nmax_in_flight = 1000",
        )
        with on_core(cores()[0]):
            run_all_won(config, WARM_UP_AUCTIONS, IN_FLIGHT)
            return run_all_won(config, AUCTIONS, IN_FLIGHT).cpu_s / (AUCTIONS * AGGREGATORS) * 1e6


def main(boxes: int, seconds: float) -> None:
    """Measure, and write."""
    configure_logging(json=False, level="error")

    def write(line: object) -> None:
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        sys.stdout.flush()

    try:
        write(measure(boxes, seconds, write))
    except DatastreamXError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
