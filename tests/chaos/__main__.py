"""Run a campaign: `python -m tests.chaos --kills 20 --seed 1`.

The timeline goes to standard error as it happens, the verdict to standard output. Exit codes: 0 every promise kept,
1 a promise broken, 2 the campaign could not go on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from tests.chaos.campaign import run_campaign
from tests.chaos.console import play
from tests.chaos.faults.kinds import FAULTS
from tests.chaos.options import Options
from tests.chaos.planted.mount import planted
from tests.chaos.report import as_json, as_text


def main(argv: list[str] | None = None) -> int:
    """Run until the verdict; see the module for the exit codes."""
    arguments = _parser().parse_args(argv)
    default = Options()
    options = Options(
        kills=arguments.kills,
        seed=arguments.seed,
        mode=arguments.mode,
        broker=arguments.broker,
        cells=arguments.cells,
        nodes=arguments.nodes,
        boxes=arguments.boxes,
        epoch_ms=arguments.epoch_ms,
        slow=arguments.slow,
        flows=arguments.flows or default.flows,
        only=arguments.only,
        without=arguments.without,
        plants=tuple(sorted(arguments.plant)),
        keep=arguments.keep,
    )
    return play(options.command, partial(run_campaign, options), as_json if arguments.json else as_text)


def _parser() -> argparse.ArgumentParser:
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Real processes under real faults.")
    add = parser.add_argument
    add("--kills", type=int, default=default.kills, help="how often processes are killed or stopped (%(default)s)")
    add("--seed", type=int, default=default.seed, help="decides which faults come, where and when (%(default)s)")
    add("--mode", choices=("cells", "cluster"), default=default.mode, help="%(default)s")
    add("--broker", choices=("tansu", "kafka"), default=default.broker, help="%(default)s")
    add("--cells", type=int, default=default.cells, help="processes of each flow (%(default)s)")
    add("--nodes", type=int, choices=(1, 3), default=default.nodes, help="of Apache Kafka (%(default)s)")
    add("--boxes", type=int, default=default.boxes, help="boxes that live meanwhile (%(default)s)")
    add("--epoch-ms", type=int, default=default.epoch_ms, help="between two snapshots (%(default)s)")
    add("--slow", action="store_true", help="also faults that take half a minute and longer")
    add("--flows", type=_names(default.flows), default=frozenset(), metavar="FLOW,...", help="kill processes of these")
    add("--only", type=_names(FAULTS), default=frozenset(), metavar="KIND,...", help=f"of {', '.join(FAULTS)}")
    add("--without", type=_names(FAULTS), default=frozenset(), metavar="KIND,...", help="leave these out")
    add("--plant", type=_names(planted()), default=frozenset(), metavar="BUG,...", help=f"of {', '.join(planted())}")
    add("--keep", type=Path, metavar="DIR", help="where configuration, stores and logs go and stay")
    add("--json", action="store_true", help="print the verdict as JSON")
    return parser


class _names:  # noqa: N801  a type for argparse, named as it reads in its messages
    def __init__(self, known: Iterable[str]) -> None:
        self._known = set(known)

    def __call__(self, text: str) -> frozenset[str]:
        names = frozenset(filter(None, text.split(",")))
        if unknown := names - self._known:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
        return names


if __name__ == "__main__":
    sys.exit(main())
