"""How fast and how punctual the auction operator is, each figure beside its yardstick in the same run.

    python -m benchmarks.auction [--quick] [--json]

throughput   calls per second of the operator inside a Bytewax flow, against a bare aiohttp loop that makes the same
             calls with as many in flight and does nothing with the replies; the same stub aggregator, the same core
punctuality  the decision's time minus the moment at which its auction closes, one aggregator silent, one dripping
burst        an ad break of a big channel: 3,600 opportunities per second for 9 s, more than one core can auction
isolation    bids of four aggregators when a fifth swallows every request, against the same run without it

The client has core 0 to itself, stub and aggregators core 1 (with one core: all share it, and it says so).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime

import aiohttp
import msgspec
import uvloop

from aggregators.registry import build_adapter
from benchmarks.auction_rig import Item, aggregator, batches_of, behave, config_for, opportunity, process, run, steadily
from benchmarks.machine import Machine, Spread, machine, percentile, resident_mib, spread
from datastreamx.config import Config
from datastreamx.interpreter import spare_garbage_collection
from datastreamx.log import configure_logging
from datastreamx.model.auction import BidRequest, Decision, Outcome

# Throughput ------------------------------------------------------------------------------------------------------


class Throughput(msgspec.Struct, frozen=True):
    """Calls per second at a number of aggregators, and ratios of the operator's to a bare loop's, round by round.

    Attributes:
        bare_calls_per_s: On asyncio's own event loop.
        bare_uvloop_calls_per_s: On uvloop, on which the operator runs too.
    """

    aggregators: int
    operator_calls_per_s: Spread
    bare_calls_per_s: Spread
    bare_uvloop_calls_per_s: Spread
    ratio: Spread
    ratio_to_uvloop: Spread


async def _bare(url: str, body: bytes, calls: int, in_flight: int) -> float:
    """Calls per second of a loop that posts the body, reads the reply and does nothing else."""
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

        started = time.perf_counter()
        await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
        return calls / (time.perf_counter() - started)


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


def _operator(config: Config, auctions: int, in_flight: int) -> float:
    """Auctions per second of the operator in a flow, `in_flight` of them at a time, as in the bare loop."""
    made = list(batches_of(auctions, 16, 600_000))
    begun = 0
    statuses: list[str] = []

    def batches() -> Iterator[list[Item]]:
        nonlocal begun
        for batch in made:
            begun += sum(len(opportunities) for _, opportunities in batch)
            yield batch

    def as_others_end() -> float:
        return 0.0 if begun - len(statuses) < in_flight else 0.001

    started = time.perf_counter()
    run(config, batches(), lambda decision: statuses.append(decision.status), as_others_end)
    took_s = time.perf_counter() - started
    if Counter(statuses) != {"won": auctions}:
        raise SystemExit(f"every auction has to be won here, found {Counter(statuses)}")
    return auctions / took_s


def throughput(aggregators: int, auctions: int, rounds: int) -> Throughput:
    """Operator and bare loops in turns, so that a busy minute of the machine hits all."""
    bare: list[float] = []
    bare_uvloop: list[float] = []
    ours: list[float] = []
    with process("benchmarks.stub") as port:
        url = f"http://127.0.0.1:{port}/bid"
        in_flight = 64
        config = config_for(
            {f"a{i}": url for i in range(aggregators)},
            "timeout_ms = 20000\ncapacity = 10000",
            "dynamic_timeout = false\nmax_in_flight = 1000",
        )
        for _ in range(rounds):
            calls = _bare(url, _body(config), auctions * aggregators, in_flight * aggregators)
            bare.append(asyncio.run(calls))
            calls = _bare(url, _body(config), auctions * aggregators, in_flight * aggregators)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                bare_uvloop.append(runner.run(calls))
            ours.append(_operator(config, auctions, in_flight) * aggregators)
    return Throughput(
        aggregators,
        spread(ours),
        spread(bare),
        spread(bare_uvloop),
        spread([mine / theirs for mine, theirs in zip(ours, bare, strict=True)]),
        spread([mine / theirs for mine, theirs in zip(ours, bare_uvloop, strict=True)]),
    )


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


class Report(msgspec.Struct, frozen=True):
    """Everything that was measured."""

    machine: Machine
    command: str
    throughput: tuple[Throughput, ...]
    punctuality: Punctuality
    burst: Burst
    isolation: Isolation


def _text(report: Report) -> str:
    where = report.machine
    lines = [f"{report.command}  on {where.cpu}, {where.cores} cores, Python {where.python}", "", "throughput, calls/s"]
    lines += [
        f"  {one.aggregators} aggregators: operator {one.operator_calls_per_s}; bare asyncio {one.bare_calls_per_s}, "
        f"ratio {one.ratio}; bare uvloop {one.bare_uvloop_calls_per_s}, ratio {one.ratio_to_uvloop}"
        for one in report.throughput
    ]
    for name, part in (
        ("punctuality, decision minus close", report.punctuality),
        ("burst", report.burst),
        ("isolation", report.isolation),
    ):
        lines += ["", name]
        lines += [f"  {key}: {value}" for key, value in msgspec.to_builtins(part).items()]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.auction", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: to see that it runs")
    parser.add_argument("--json", action="store_true", help="for machines")
    arguments = parser.parse_args(argv)
    scale = 10 if arguments.quick else 1

    def progress(text: str) -> None:
        sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {text}\n")

    # A silent aggregator is meant to look unwell.
    configure_logging(json=False, level="error")
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {0})
    # As `flows.run` does; the bare loops profit from it too.
    spare_garbage_collection()
    found = []
    for aggregators in (1, 3, 5):
        progress(f"throughput, {aggregators} aggregators")
        found.append(throughput(aggregators, 12_000 // aggregators // scale, 3 if arguments.quick else 7))
    progress("punctuality")
    on_time = punctuality(1_500 // scale, 75)
    progress("burst")
    broken = burst(3_600, 9 if scale == 1 else 2)
    progress("isolation")
    isolated = isolation(1_500 // scale, 100, 1 if arguments.quick else 3)
    command = "python -m benchmarks.auction" + (" --quick" if arguments.quick else "")
    report = Report(machine(), command, tuple(found), on_time, broken, isolated)
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n" if arguments.json else _text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
