"""How fast and how punctual the auction operator is, each figure beside its yardstick in the same run.

    python -m benchmarks.auction [--quick] [--save] [--json]

throughput   calls per second of the operator inside a Bytewax flow, against a bare aiohttp loop that makes the same
             calls with as many in flight and does nothing with the replies; the same stub aggregator, the same core
punctuality  the decision's time minus the moment at which its auction closes, one aggregator silent, one dripping
burst        an ad break of a big channel: 3,600 opportunities per second for 9 s, more than one core can auction
isolation    bids of four aggregators when a fifth swallows every request, against the same run without it

The client has core 0 to itself, stub and aggregators core 1 (with one core: all share it, and it says so).
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime

import aiohttp
import msgspec
import uvloop

from aggregators.registry import build_adapter
from benchmarks.auction_rig import aggregator, behave, process
from benchmarks.contest import Standing, standing
from benchmarks.machine import Spread, percentile, spread
from benchmarks.report import OURS, Comparison, Figure, Goal, conclude, parser, report
from datastreamx.config import Config
from datastreamx.interpreter import spare_garbage_collection
from datastreamx.log import configure_logging
from datastreamx.model.auction import BidRequest, Decision, Outcome
from flows.bench.auctions import batches_of, config_for, opportunity, run, run_all_won, steadily
from flows.bench.effort import Effort, Stopwatch
from flows.bench.machine import resident_mib

# Throughput ------------------------------------------------------------------------------------------------------


BARE, BARE_UVLOOP = "bare loop on asyncio", "bare loop on uvloop"


async def _bare(url: str, body: bytes, calls: int, in_flight: int) -> Effort:
    """A loop that posts the body, reads the reply and does nothing else; units are calls."""
    left = calls
    headers = {"content-type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def one_after_the_other() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                async with session.post(url, data=body, headers=headers) as reply:
                    await reply.read()

        watch = Stopwatch()
        await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
        return watch.effort(calls)


def _body(config: Config) -> bytes:
    one = opportunity(1, 1_000)
    request = BidRequest(
        auction_id=one.auction_id,
        box_key=one.box_key,
        trigger=one.trigger,
        opportunity_ms=one.opportunity_ms,
        channel_id=one.channel_id,
        last_channel_id=one.last_channel_id,
        last_ad_id=one.last_ad_id,
        break_id=None,
        slot_ms=one.slot_ms,
        tmax_ms=300,
        floor_micros=0,
        currency="USD",
    )
    return build_adapter(config.aggregators[0]).make_requests(request)[0].body or b""


def throughput(aggregators: int, auctions: int, rounds: int) -> Comparison:
    """Operator and bare loops in turns, so that a busy minute of the machine hits all."""
    efforts: dict[str, list[Effort]] = {BARE: [], BARE_UVLOOP: [], OURS: []}
    calls, in_flight = auctions * aggregators, 64
    with process("benchmarks.stub") as port:
        url = f"http://127.0.0.1:{port}/bid"
        config = config_for(
            {f"a{i}": url for i in range(aggregators)},
            "timeout_ms = 20000\ncapacity = 10000",
            "dynamic_timeout = false\nmax_in_flight = 1000",
        )
        for _ in range(rounds):
            efforts[BARE].append(asyncio.run(_bare(url, _body(config), calls, in_flight * aggregators)))
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                efforts[BARE_UVLOOP].append(runner.run(_bare(url, _body(config), calls, in_flight * aggregators)))
            ours = run_all_won(config, auctions, in_flight)
            efforts[OURS].append(msgspec.structs.replace(ours, units=calls))
    standings: list[Standing] = [standing(name, own, efforts[BARE]) for name, own in efforts.items()]
    return Comparison(f"{aggregators} aggregator{'s' if aggregators > 1 else ''}", "calls", BARE, standings)


# Punctuality -----------------------------------------------------------------------------------------------------


class Punctuality(msgspec.Struct, frozen=True):
    """Decision minus the auction's close, milliseconds; negative is early."""

    auctions: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    after_push_deadline: int


def punctuality(auctions: int, per_second: int) -> Punctuality:
    """Three honest aggregators, a silent one and a dripping one; every auction has to wait for its close."""
    over_ms: list[float] = []
    late = 0

    def take(decision: Decision) -> None:
        nonlocal late
        now_ms = time.time_ns() / 1e6
        over_ms.append(now_ms - (decision.deadline_ms - 300))
        late += now_ms > decision.deadline_ms

    names = ("honest1", "honest2", "honest3", "silent", "dripping")
    with ExitStack() as stack:
        ports = {name: stack.enter_context(process(*aggregator(name, "fast"))) for name in names}
        behave(ports["silent"], mode="silent")
        behave(ports["dripping"], mode="drip")
        config = config_for(
            {name: f"http://127.0.0.1:{port}/bid" for name, port in ports.items()},
            "timeout_ms = 20000\npush_reserve_ms = 300\nlate_grace_ms = 100",
            'dynamic_timeout = false\nthrottle = "off"',
        )
        size = 5
        run(config, batches_of(auctions, size, 700), take, steadily(size / per_second))
    return Punctuality(len(over_ms), percentile(over_ms, 0.5), percentile(over_ms, 0.99), max(over_ms), late)


# Burst -----------------------------------------------------------------------------------------------------------


class Burst(msgspec.Struct, frozen=True):
    """What became of an ad break of a big channel."""

    opportunities: int
    by_status: dict[str, int]
    decided_after_deadline: int
    without_code: int
    settled_p99_ms: float
    memory_before_mib: float
    memory_peak_mib: float
    memory_growth_second_half_mib: float


def burst(per_second: int, seconds: int) -> Burst:
    """Three instant aggregators; more opportunities than a core can auction."""
    total = per_second * seconds
    statuses: Counter[str] = Counter()
    late = without_code = 0
    age_ms: list[float] = []
    memory: list[float] = []

    def take(decision: Decision) -> None:
        nonlocal late, without_code
        statuses[decision.status] += 1
        now_ms = time.time_ns() / 1e6
        age_ms.append(now_ms - decision.opportunity_ms)
        # Whatever leaves with an ad has to leave in time; what was shed or has expired says so by its code.
        late += bool(decision.ads) and now_ms > decision.deadline_ms
        without_code += len(decision.outcomes) != len(config.aggregators)
        if len(age_ms) % 1_000 == 0:
            memory.append(resident_mib())

    with ExitStack() as stack:
        names = ("a1", "a2", "a3")
        urls = {name: f"http://127.0.0.1:{stack.enter_context(process('benchmarks.stub'))}/bid" for name in names}
        config = config_for(urls, "")
        run(config, batches_of(200, 20, 60_000), lambda _: None, steadily(0.02))
        gc.collect()
        before = resident_mib()
        size = 36
        run(config, batches_of(total, size, 2_000), take, steadily(size / per_second))
    half = memory[len(memory) // 2 :]
    return Burst(
        opportunities=total,
        by_status=dict(statuses),
        decided_after_deadline=late,
        without_code=without_code,
        settled_p99_ms=percentile(age_ms, 0.99),
        memory_before_mib=before,
        memory_peak_mib=max(memory),
        memory_growth_second_half_mib=half[-1] - half[0],
    )


# Isolation -------------------------------------------------------------------------------------------------------


class Isolation(msgspec.Struct, frozen=True):
    """Bids of the four healthy aggregators with the fifth black-holed, over the same without it."""

    auctions: int
    bids_baseline: Spread
    bids_with_black_hole: Spread
    ratio: Spread


_BID_CODES = frozenset({Outcome.WON, Outcome.OUTBID})


def isolation(auctions: int, per_second: int, rounds: int) -> Isolation:
    """Five aggregators of the profile `fast`; in every second run one of them swallows every request."""
    names = tuple(f"a{i}" for i in range(5))
    bids: dict[str, list[int]] = {"ok": [], "silent": []}
    with ExitStack() as stack:
        ports = {name: stack.enter_context(process(*aggregator(name, "fast"))) for name in names}
        config = config_for({name: f"http://127.0.0.1:{port}/bid" for name, port in ports.items()}, "")
        # In turns, and the same auctions each time: the aggregators draw their answers from the auction's id.
        for mode in ("ok", "silent") * rounds:
            behave(ports["a0"], mode=mode)
            counted = 0

            def take(decision: Decision) -> None:
                nonlocal counted
                counted += sum(one.code in _BID_CODES for one in decision.outcomes if one.aggregator != "a0")

            size = 5
            run(config, batches_of(auctions, size, 2_000), take, steadily(size / per_second))
            bids[mode].append(counted)
    ratios = [holed / whole for whole, holed in zip(bids["ok"], bids["silent"], strict=True)]
    return Isolation(auctions, spread(bids["ok"]), spread(bids["silent"]), spread(ratios))


# Report ----------------------------------------------------------------------------------------------------------


def _figures(on_time: Punctuality, broken: Burst, isolated: Isolation) -> list[Figure]:
    decided, shed = "decision minus close", "burst"
    return [
        *(
            Figure(name, unit, spread([figure]))
            for name, unit, figure in (
                (f"{decided}, p50", "ms", on_time.p50_ms),
                (f"{decided}, p99", "ms", on_time.p99_ms),
                (f"{decided}, worst", "ms", on_time.worst_ms),
                ("decisions after the push's deadline", f"of {on_time.auctions:,}", on_time.after_push_deadline),
                *((f"{shed}, {status}", f"of {broken.opportunities:,}", n) for status, n in broken.by_status.items()),
                (f"{shed}, ads decided after their deadline", "decisions", broken.decided_after_deadline),
                (f"{shed}, outcomes without a code", "decisions", broken.without_code),
                (f"{shed}, settled p99", "ms", broken.settled_p99_ms),
                (f"{shed}, memory before", "MiB", broken.memory_before_mib),
                (f"{shed}, memory peak", "MiB", broken.memory_peak_mib),
                (f"{shed}, memory growth in its second half", "MiB", broken.memory_growth_second_half_mib),
            )
        ),
        Figure("bids of four aggregators", f"in {isolated.auctions:,} auctions", isolated.bids_baseline),
        Figure(
            "bids of four aggregators, the fifth silent",
            f"in {isolated.auctions:,} auctions",
            isolated.bids_with_black_hole,
        ),
        Figure("of them with the fifth silent", "times as many", isolated.ratio),
    ]


def _goals(comparisons: Sequence[Comparison], on_time: Punctuality) -> list[Goal]:
    goals = [Goal(f"{one.label}: calls over {BARE}", 0.7, one.of(OURS).speed.median) for one in comparisons]
    return [*goals, Goal("decision minus close, p99 in ms", 10.0, on_time.p99_ms, at_least=False)]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = parser("benchmarks.auction", __doc__ or "").parse_args(argv)
    scale = 10 if options.quick else 1

    def progress(text: str) -> None:
        sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {text}\n")

    # A silent aggregator is meant to look unwell.
    configure_logging(json=False, level="error")
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {0})
    # As `flows.run` does; the bare loops profit from it too.
    spare_garbage_collection()
    comparisons = []
    for aggregators in (1, 3, 5):
        progress(f"throughput, {aggregators} aggregators")
        comparisons.append(throughput(aggregators, 12_000 // aggregators // scale, 3 if options.quick else 7))
    progress("punctuality")
    on_time = punctuality(1_500 // scale, 75)
    progress("burst")
    broken = burst(3_600, 9 if scale == 1 else 2)
    progress("isolation")
    isolated = isolation(1_500 // scale, 100, 1 if options.quick else 3)
    conclude(
        report(
            question="auction",
            asks="How many calls per second, how punctual, what in a burst, what when one aggregator is silent?",
            command="python -m benchmarks.auction" + (" --quick" if options.quick else ""),
            data=f"{12_000 // scale:,} calls per turn, OpenRTB over HTTP/1.1 on loopback, 64 auctions in flight",
            comparisons=comparisons,
            figures=_figures(on_time, broken, isolated),
            goals=_goals(comparisons, on_time),
            notes=["client on core 0, stub and aggregators on core 1; the stub costs next to nothing"],
        ),
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
