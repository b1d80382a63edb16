"""Rows landed in BigQuery exactly once: how many per second, and what does one cost?

    python -m benchmarks.warehouse [--rows 10000000] [--turns 3] [--quick] [--save] [--json]

bare append                     joined beforehand, then only Arrow IPC, gRPC and four requests under way: no offsets
                                kept, no ledger, no snapshot. The yardstick: what I/O alone costs
loader, null endpoint           our sink in a loop, a snapshot and a tick each second; `null_bigquery.py` stores nothing
warehouse flow, null endpoint   messages of the topics through the flow as it runs in production, from decoding to the
                                sinks of all tables, with its recovery store; only Kafka's client is left out
loader, local BigQuery          our sink against `simulator.bigquery`, which stores the rows
Parquet, zstd | snappy          the same rows as a file for a load job, which we do not have: CPU and bytes only

Facts come twice: in messages as full as they are when the ads flow catches up, and as small as live traffic makes them.
Decisions come alone. All have core 0 to themselves, the other end has core 1. What comes in is in memory before the
clock starts. At the end of each turn every row has to be acknowledged, and of the loaders' be visible, or the turn
fails. Then memory is watched while `--rows` rows go through the loader.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.contest import Contestant, compare, module, run
from benchmarks.machine import spread
from benchmarks.report import Comparison, Figure, Goal, conclude, parser, report
from benchmarks.warehouse_rig import (
    BARE,
    DECISIONS,
    FLOW,
    FULL,
    GROUPS,
    LIVE,
    LIVE_AGE_S,
    LIVE_ROWS,
    LIVE_ROWS_PER_S,
    LOADER,
    LOCAL,
    MEMORY,
    PARTITIONS,
    SNAPPY,
    ZSTD,
)
from flows.bench.effort import Effort
from simulator.traffic import DESCRIPTION

CORE = 0
EVENTS, EVENTS_QUICK = 1_000_000, 100_000
PASSES = 3
"""How often the loader and the bare append are given the events."""
LABELS = {
    FULL: "facts, messages of up to 4,000 rows",
    LIVE: f"facts, messages of {LIVE_ROWS} rows",
    DECISIONS: "decisions about 8 aggregators",
}
NAMES = {FULL: (BARE, LOADER, FLOW, LOCAL, ZSTD, SNAPPY), LIVE: (BARE, LOADER, FLOW), DECISIONS: (FLOW,)}
"""Who takes part; what whole tables or requests become does not depend on the size of messages."""

NOTES = (
    "CPU is that of all threads of the process that loads. What the bare append takes is Arrow's and gRPC's code in C; "
    "what the loader takes beyond it is joining the messages, again Arrow's, and our own",
    "the null endpoint acknowledges without storing, so these are the limits of our side and not of BigQuery",
    "Parquet tells what the alternative would cost in CPU and bytes, as an estimate: there is no mode for load jobs, "
    "uploading is not part of it, and latency would be minutes",
    "the flow is fed from memory without Kafka's client, which has a benchmark of its own; its displays find no "
    "decision and wait",
    "a decision is one row of ad_decisions and eight of bids, which are the rows counted there; the goals are about "
    "rows of box_events",
)


def _rig(name: str, messages: Path, passes: int = 1, rows: int = 0) -> Contestant:
    return Contestant(name, module("benchmarks.warehouse_rig", name, str(messages), str(passes), str(rows)), CORE)


def _compare(messages: str, directory: Path, turns: int) -> Comparison:
    sys.stderr.write(f"{LABELS[messages]}\n")
    names = NAMES[messages]
    standings = compare([_rig(name, directory / messages, PASSES) for name in names], turns, names[0])
    return Comparison(LABELS[messages], "rows", names[0], standings)


def _goals(comparisons: Sequence[Comparison], memory: Effort) -> Iterator[Goal]:
    for comparison in comparisons:
        if comparison.label == LABELS[DECISIONS]:
            continue  # JSON of 3 KB each, and a few per hundred events
        for one in comparison.standings:
            if one.name in {LOADER, FLOW}:
                yield Goal(f"{comparison.label}: rows per second, {one.name}", 100_000, one.per_s.median)
                yield Goal(f"{comparison.label}: µs per row, {one.name}", 3.0, one.cpu_us.median, at_least=False)
    growth = memory.more["growth"]
    yield Goal("memory in the last third of the rows over that in the third before", 1.05, growth, at_least=False)


def _figures(comparisons: Sequence[Comparison], memory: Effort) -> Iterator[Figure]:
    for comparison in comparisons:
        for one in comparison.standings:
            for name, value in one.more.items():
                what, _, unit = name.partition(", ")
                yield Figure(f"{comparison.label}, {one.name}: {what}", f"{unit} per row".strip(), value)
    for name, figure in memory.more.items():
        what, _, unit = name.partition(", ")
        yield Figure(f"memory over {memory.units:,} rows: {what}", unit, spread([figure]))


def main() -> int:
    """Measure and print."""
    options_of = parser("benchmarks.warehouse", __doc__ or "")
    options_of.add_argument("--rows", type=int, default=10_000_000, help="through the loader while memory is watched")
    options_of.add_argument("--turns", type=int, default=3)
    options = options_of.parse_args()
    count, turns = (EVENTS_QUICK, 1) if options.quick else (EVENTS, options.turns)
    with tempfile.TemporaryDirectory(prefix="datastreamx-bench-") as folder:
        directory = Path(folder)
        sys.stderr.write(f"making facts of {count:,} events\n")
        run(Contestant("data", module("benchmarks.warehouse_data", folder, str(count)), None))
        comparisons = [_compare(messages, directory, turns) for messages in LABELS]
        rows = 500_000 if options.quick else options.rows
        sys.stderr.write(f"memory over {rows:,} rows\n")
        memory = run(_rig(MEMORY, directory / LIVE, rows=rows))
    conclude(
        report(
            question="warehouse",
            asks="How many rows per second land in BigQuery exactly once, and how much CPU does one take?",
            command="python -m benchmarks.warehouse" + (" --quick" if options.quick else ""),
            data=(
                f"box_events as the viewing operator makes them of {count:,} events: {DESCRIPTION}; {PARTITIONS} "
                f"partitions of {GROUPS} key groups. {LIVE_ROWS} rows a message are what {LIVE_ROWS_PER_S:,} rows per "
                f"second come to in {LIVE_AGE_S} s"
            ),
            comparisons=comparisons,
            figures=[*_figures(comparisons, memory)],
            goals=[*_goals(comparisons, memory)],
            notes=NOTES,
        ),
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
