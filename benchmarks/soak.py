"""Whether anything grows: memory, open files and stores of all flows under steady load, over time.

    python -m benchmarks.soak [--minutes 30] [--boxes 3000] [--plot FILE.svg] [--quick] [--save] [--json]

The whole service on Apache Kafka (needs Java 17 and Maven; the local broker gets slower with the length of its topics).
All memories that are bounded by time are as short as a few minutes, so that they are full long before the end. At the
end the audit of the demo runs, and the last third of the samples is compared with the third before it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import msgspec
from matplotlib import pyplot as plt

from benchmarks.live import Service, say
from benchmarks.machine import spread
from benchmarks.report import RESULTS, Figure, Goal, Report, conclude, parser, report

INTERVAL_S = 10.0

CONFIG = """
[warehouse]
decision_memory_ms = 240000
"""


class Sample(msgspec.Struct, frozen=True):
    """One process of a flow at one moment.

    Attributes:
        at_s: Since the start.
        resident_mib: Memory in RAM.
        handles: Open file descriptors.
        store_mib: Its recovery store on disk, write-ahead logs included.
        events: Sent by the boxes so far.
    """

    flow: str
    at_s: float
    resident_mib: float
    handles: int
    store_mib: float
    events: int


class Growth(msgspec.Struct, frozen=True):
    """Median of the last third of the run over that of the third before it."""

    flow: str
    resident: float
    handles: float
    store: float
    resident_mib: float


class Soaked(msgspec.Struct, frozen=True):
    """What was seen; `violations` are promises that the audit found broken."""

    events: int
    violations: list[str]
    samples: list[Sample]

    @property
    def growth(self) -> list[Growth]:
        """Of every flow."""
        return [growth(flow, self.samples) for flow in dict.fromkeys(sample.flow for sample in self.samples)]


def measure(minutes: float, boxes: int) -> Soaked:
    """Run and sample."""
    samples: list[Sample] = []
    with (
        tempfile.TemporaryDirectory(prefix="datastreamx-soak-") as name,
        Service(Path(name), boxes, extra=CONFIG) as service,
    ):
        begin_s = time.monotonic()
        while (at_s := time.monotonic() - begin_s) < minutes * 60:
            service.check()
            events = service.ledger.events
            for flow in service.flows:
                pid = service.worker_pid(flow)
                samples.append(
                    Sample(
                        flow=flow,
                        at_s=round(at_s, 1),
                        resident_mib=round(_resident_mib(pid), 2),
                        handles=len([*Path(f"/proc/{pid}/fd").iterdir()]),
                        store_mib=round(_size_mib(service.store(flow)), 3),
                        events=events,
                    )
                )
            say(f"{at_s / 60:5.1f} min  " + "  ".join(map(_brief, samples[-len(service.flows) :])))
            time.sleep(max(0.0, INTERVAL_S - (time.monotonic() - begin_s - at_s)))
        summary = service.finish()
    return Soaked(summary.events["produced"], summary.violations, samples)


def growth(flow: str, samples: Sequence[Sample]) -> Growth:
    """How much the last third is above the second."""
    ours = [sample for sample in samples if sample.flow == flow]
    third = len(ours) // 3
    before, after = ours[third : 2 * third], ours[2 * third :]

    def ratio(measure: Callable[[Sample], float]) -> float:
        return round(statistics.median(map(measure, after)) / max(1e-9, statistics.median(map(measure, before))), 3)

    return Growth(
        flow=flow,
        resident=ratio(lambda sample: sample.resident_mib),
        handles=ratio(lambda sample: sample.handles),
        store=ratio(lambda sample: sample.store_mib),
        resident_mib=round(statistics.median(sample.resident_mib for sample in after), 1),
    )


def plot(soaked: Soaked, path: Path) -> None:
    """Three panels over time: memory, handles, stores."""
    mpl.use("svg")
    # Without these the same data gives another file each time.
    mpl.rcParams["svg.hashsalt"] = "datastreamx"
    panels: tuple[tuple[str, Callable[[Sample], float]], ...] = (
        ("resident memory, MiB", lambda sample: sample.resident_mib),
        ("open handles", lambda sample: sample.handles),
        ("recovery store, MiB", lambda sample: sample.store_mib),
    )
    figure, axes = plt.subplots(len(panels), 1, sharex=True, figsize=(8, 7))
    for axis, (title, measure) in zip(axes, panels, strict=True):
        for one in soaked.growth:
            ours = [sample for sample in soaked.samples if sample.flow == one.flow]
            axis.plot([sample.at_s / 60 for sample in ours], [measure(sample) for sample in ours], label=one.flow)
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
        axis.grid(visible=True, alpha=0.3)
    axes[0].legend(loc="lower right")
    last_s = max(sample.at_s for sample in soaked.samples)
    axes[-1].set_xlabel(f"minutes; {soaked.events / last_s:,.0f} events per second")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


def _size_mib(store: Path) -> float:
    return sum(path.stat().st_size for path in store.iterdir() if path.exists()) / 2**20


def _brief(sample: Sample) -> str:
    return f"{sample.flow} {sample.resident_mib:.0f} MiB, {sample.handles} handles, {sample.store_mib:.1f} MiB stored;"


def _report(soaked: Soaked, boxes: int, command: str) -> Report:
    figures, goals = [], []
    for one in soaked.growth:
        for what, grown in (("memory", one.resident), ("handles", one.handles), ("store", one.store)):
            goals.append(
                Goal(f"{one.flow}: {what}, last third over the one before", 1.05, round(grown, 3), at_least=False)
            )
        figures.append(Figure(f"{one.flow}: memory in the last third", "MiB", spread([one.resident_mib])))
    goals.append(Goal("broken promises", 0, len(soaked.violations), at_least=False))
    return report(
        question="soak",
        asks="Do memory, handles and stores stay flat?",
        command=command,
        data=f"{boxes:,} boxes, six times as fast as real viewers, {soaked.events:,} events, on Apache Kafka",
        figures=figures,
        goals=goals,
        notes=soaked.violations,
    )


def main() -> int:
    """Measure, plot and print; 1 if the audit found a broken promise."""
    options_of = parser("benchmarks.soak", __doc__ or "")
    options_of.add_argument("--minutes", type=float, default=30.0)
    options_of.add_argument("--boxes", type=int, default=3_000)
    options_of.add_argument(
        "--plot", type=Path, default=None, metavar="FILE", help="write a chart as SVG, also without --save"
    )
    options = options_of.parse_args()
    minutes, boxes = (1.0, 1_000) if options.quick else (options.minutes, options.boxes)
    soaked = measure(minutes, boxes)
    if options.plot is not None:
        plot(soaked, options.plot)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        # Not .json: those are all reports.
        (RESULTS / "soak-samples.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(soaked.samples))
    command = f"python -m benchmarks.soak --minutes {minutes:g} --boxes {boxes}"
    conclude(_report(soaked, boxes, command), options, lambda _, path: plot(soaked, path))
    return 1 if soaked.violations else 0


if __name__ == "__main__":
    sys.exit(main())
