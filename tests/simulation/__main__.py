"""Run histories: `python -m tests.simulation --seed 1 --runs 10000`, or one with every step by `--trace`."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from tests.simulation.batch import options_for, run_chunk
from tests.simulation.coverage import missing
from tests.simulation.history import History, Outcome, virtual_time
from tests.simulation.plants import PLANTS
from tests.simulation.report import failure

_CHUNK = 25
_PROGRESS_S = 5.0
_FAILURES_TOLD = 10


def main() -> int:
    """Exit code 1 if an invariant was broken or too little happened."""
    arguments = _arguments()
    if arguments.trace:
        return _trace(arguments.seed, arguments.plant)
    seen: Counter[str] = Counter()
    failures: list[Outcome] = []
    done, started_s, told_s = 0, time.monotonic(), 0.0
    for outcomes in _outcomes(arguments):
        for outcome in outcomes:
            done += 1
            seen.update(outcome.seen)
            if outcome.broken:
                failures.append(outcome)
                if len(failures) <= _FAILURES_TOLD:
                    _tell(failure(outcome, arguments.plant))
        elapsed_s = time.monotonic() - started_s
        if elapsed_s - told_s >= _PROGRESS_S:
            told_s = elapsed_s
            _tell(f"{done} of {arguments.runs} histories, {done / elapsed_s * 60:.0f} a minute, {len(failures)} broken")
    elapsed_s = time.monotonic() - started_s
    lacking = missing(seen, done)
    if arguments.json:
        summary = {
            "seed": arguments.seed,
            "histories": done,
            "seconds": round(elapsed_s, 1),
            "per_minute": round(done / elapsed_s * 60),
            "broken": [outcome.seed for outcome in failures],
            "missing": lacking,
            "seen": dict(sorted(seen.items())),
        }
        sys.stdout.write(json.dumps(summary, indent=1) + "\n")
    else:
        for kind, count in sorted(seen.items()):
            _tell(f"  {kind:<40} {count:>9}")
        for problem in lacking:
            _tell(f"too little happened: {problem}")
        _tell(
            f"{done} histories of seeds {arguments.seed} to {arguments.seed + done - 1} in {elapsed_s:.0f} s on "
            f"{arguments.jobs} cores, {done / elapsed_s * 60:.0f} a minute: {len(failures)} broken"
        )
    return 1 if failures or lacking else 0


def _outcomes(arguments: argparse.Namespace) -> Iterator[list[Outcome]]:
    end = arguments.seed + arguments.runs
    chunks = [(first, min(first + _CHUNK, end), arguments.plant) for first in range(arguments.seed, end, _CHUNK)]
    if arguments.jobs == 1:
        yield from map(run_chunk, chunks)
        return
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        yield from pool.imap(run_chunk, chunks)


def _trace(seed: int, plant: str | None) -> int:
    with virtual_time() as clock:
        history = History(seed, clock, replace(options_for(plant), with_trace=True))
        try:
            outcome = history.run()
        finally:
            for moment in history.world.trace or ():
                _tell(f"{moment.at_ms:>8} ms  {moment.who}: {moment.what}")
    if outcome.broken:
        _tell(failure(outcome, plant))
    return 1 if outcome.broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first history")
    parser.add_argument("--runs", type=int, default=1_000, help="how many histories")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="break the product on purpose")
    parser.add_argument("--trace", action="store_true", help="run the one history of --seed and print every step")
    parser.add_argument("--json", action="store_true", help="print a summary for machines at the end")
    return parser.parse_args()


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
