"""All benchmarks, one after the other, in a fixed order; one that fails does not keep the others from running.

    python -m benchmarks [--quick] [--json] [--no-save] [NAME ...]

Without names: all. Results go to `benchmarks/results` unless `--no-save` is given. Ends with a summary, and with code 1
if one failed. That a goal was missed is a result, not a failure.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.contest import ROOT, module

NAMES = (
    "state",
    "kafka",
    "auction",
    "end_to_end",
    "warehouse",
    "recovery",
    "replay",
    "scale",
    "restart",
    "outage",
    "soak",
)
"""The quick ones first: what is wrong with the machine shows early."""


@dataclass(frozen=True)
class Ended:
    """One benchmark, run once."""

    name: str
    code: int
    took_s: float


def run_all(names: Sequence[str], options: Sequence[str], run: Callable[[Sequence[str]], int]) -> list[Ended]:
    """Run each, whatever became of the one before.

    Args:
        names: Of modules of this package.
        options: For each of them.
        run: Runs a command to its end; returns its exit code.
    """
    ended: list[Ended] = []
    for number, name in enumerate(names, 1):
        _say(f"[{number} of {len(names)}] benchmarks.{name}")
        begin_s = time.monotonic()
        code = run(module(f"benchmarks.{name}", *options))
        ended.append(Ended(name, code, time.monotonic() - begin_s))
        if code:
            _say(f"[{number} of {len(names)}] benchmarks.{name} FAILED with code {code}")
    return ended


def summary(ended: Sequence[Ended]) -> str:
    """A line for each, and how many failed."""
    width = max((len(one.name) for one in ended), default=0)
    lines = [
        f"  {one.name:<{width}}  {one.took_s:7.1f} s  {f'failed with code {one.code}' if one.code else 'done'}"
        for one in ended
    ]
    failed = sum(one.code != 0 for one in ended)
    return "\n".join([*lines, f"{len(ended) - failed} of {len(ended)} done, {failed} failed"])


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _run(argv: Sequence[str]) -> int:
    return subprocess.run(argv, check=False, cwd=ROOT).returncode  # noqa: S603  our own


def main(argv: Sequence[str] | None = None) -> int:
    """Run them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="little work each: to see that they run")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--no-save", action="store_true", help="do not keep results and charts")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    chosen = (("--quick", options.quick), ("--json", options.json), ("--save", not options.no_save))
    ended = run_all(options.names or NAMES, [option for option, is_given in chosen if is_given], _run)
    _say(summary(ended))
    return 1 if any(one.code for one in ended) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
