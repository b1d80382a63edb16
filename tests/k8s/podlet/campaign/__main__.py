"""Run a campaign: `python -m tests.k8s.podlet.campaign --story rollout --seed 1`.

What happens goes to standard error, the verdict to standard output. Exit codes: 0 every promise kept, 1 a promise
broken, 2 the campaign could not go on. Needs root.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from tests.chaos.console import play
from tests.k8s.podlet.campaign.campaign import run_campaign
from tests.k8s.podlet.campaign.options import PLANTS, STORIES, Options
from tests.k8s.podlet.campaign.report import as_json, as_text


def main(argv: list[str] | None = None) -> int:
    """Run until the verdict; see the module for the exit codes."""
    given = _parser().parse_args(argv)
    chosen = given.story or ([] if given.plant else ["all"])
    options = Options(
        stories=STORIES if "all" in chosen else tuple(name for name in STORIES if name in chosen),
        seed=given.seed,
        broker=given.broker,
        cells=given.cells,
        rescales=given.rescales,
        kills=given.kills,
        boxes=given.boxes,
        quiet_s=given.quiet_s,
        freeze_s=given.freeze_s,
        cut_s=given.cut_s,
        time_scale=given.time_scale,
        plants=tuple(given.plant),
        keep=given.keep,
    )
    return play(options.command, partial(run_campaign, options), as_json if given.json else as_text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _parser() -> argparse.ArgumentParser:
    default = Options()
    parser = argparse.ArgumentParser(
        prog="python -m tests.k8s.podlet.campaign", description="The manifests as real processes, under load."
    )
    add = parser.add_argument
    add("--story", action="append", choices=(*STORIES, "all"), help="may be given more than once (all)")
    add("--seed", type=int, default=default.seed, help="decides what viewers do, and moments (%(default)s)")
    add("--broker", choices=("tansu", "kafka"), default=default.broker, help="%(default)s")
    add("--cells", type=int, default=default.cells, help="of each flow at the beginning (%(default)s)")
    add("--rescales", type=_numbers, default=default.rescales, metavar="N,...", help="numbers of cells to go through")
    add("--kills", type=int, default=default.kills, help="of one cell (%(default)s)")
    add("--boxes", type=int, default=default.boxes, help="that live meanwhile (%(default)s)")
    add("--quiet-s", type=float, default=default.quiet_s, help="without any trouble, to compare with (%(default)s)")
    add("--freeze-s", type=float, default=default.freeze_s, help="how long a pod stands still (%(default)s)")
    add("--cut-s", type=float, default=default.cut_s, help="how long a pod has no network (%(default)s)")
    add("--time-scale", type=float, default=default.time_scale, help="divides the kubelet's back-off (%(default)s)")
    add("--plant", action="append", choices=PLANTS, default=[], help="a fault that the verdict has to find")
    add("--keep", type=Path, metavar="DIR", help="where everything goes and stays")
    add("--json", action="store_true", help="print the verdict as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
