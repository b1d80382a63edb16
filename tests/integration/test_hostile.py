"""All that aggregators may do to us, through the auction house as a flow gets it: no ad, one code each, no memory."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from datastreamx.acks import AckedOffsets
from datastreamx.clock import SystemClock
from datastreamx.config import AggregatorConfig, AuctionConfig
from datastreamx.model.auction import DecidedAuction, Decision, Outcome
from flows.ports.ads import live_bidding_ports
from operators.bidding.step import BiddingPorts
from simulator.aggregators import LocalAggregator
from simulator.aggregators.dialects import DIALECTS
from simulator.aggregators.modes import MODES
from simulator.aggregators.modes.offers import BLOCKED_DOMAIN
from simulator.processes import Child
from tests.builders import config, opportunity
from tests.integration.hostile_replies import REPLIES, auction_id

MIB = 1 << 20
MAX_RESPONSE_BYTES = 256 << 10
AUCTIONS_PER_MODE = 8
"""Some modes have variants, drawn by the auction's id."""

AT_A_TIME = 2
"""Each auction has a call to each dialect."""

OPTIONS: dict[str, dict[str, str | int | bool]] = {
    "openrtb": {"publisher_id": "p", "app_bundle": "b"},
    "simple": {"method": "POST"},
    "vasttag": {},
}

SPOILT = {Outcome.INVALID_RESPONSE}
EXPECTED: dict[str, set[Outcome]] = {
    "silent": {Outcome.TIMEOUT},
    "slow": {Outcome.TIMEOUT},
    "slow_head": {Outcome.TIMEOUT},
    "drip": {Outcome.TIMEOUT},
    "chunk_flood": {Outcome.OVERSIZE},
    "http_500": {Outcome.ERROR},
    "storm": {Outcome.ERROR},
    "redirect": {Outcome.ERROR},
    "reset": {Outcome.UNREACHABLE},
    "garbage": SPOILT,
    "oversized": {Outcome.OVERSIZE},
    "deep": SPOILT,
    "gzip_bomb": {Outcome.OVERSIZE},
    "deflate_bomb": {Outcome.OVERSIZE},
    "zstd_bomb": SPOILT,
    "wrong_id": SPOILT,
    "wrong_imp": SPOILT,
    "nan_price": SPOILT,
    "negative_price": SPOILT,
    "huge_price": SPOILT,
    "wrong_currency": {Outcome.CURRENCY},
    "bad_vast": {Outcome.INVALID_RESPONSE, Outcome.CREATIVE_REJECTED},
    "http_creative": {Outcome.CREATIVE_REJECTED},
    "long_creative": {Outcome.CREATIVE_REJECTED},
    "blocked_advertiser": {Outcome.ADVERTISER_BLOCKED},
}


class _EmptyLog:
    def read_back(self, partition: int, from_offset: int | None) -> list[DecidedAuction]:
        del partition, from_offset
        return []


@pytest.fixture(scope="module")
def aggregators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LocalAggregator]]:
    """One for each dialect, in processes of their own."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("hostile")
        yield {
            dialect: stack.enter_context(LocalAggregator(dialect, dialect, log_dir=folder, seed=7, profile="instant"))
            for dialect in ("openrtb", "simple", "vasttag")
        }


@pytest.fixture(scope="module")
def corpus_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    child = Child(
        "hostile replies",
        [sys.executable, "-m", "tests.integration.hostile_replies"],
        log_path=tmp_path_factory.mktemp("replies") / "server.log",
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])},
        is_ready=lambda started: "READY" in started.output(),
    )
    child.start()
    yield int(child.output().split()[1])
    child.stop()


def opened(stack: ExitStack, urls: dict[str, str]) -> BiddingPorts:
    """The house that the flow gets, with one aggregator for each dialect, named like it."""
    aggregators = tuple(
        AggregatorConfig(name=name, adapter=name, url=url, options=OPTIONS[name], throttle="off", dynamic_timeout=False)
        for name, url in urls.items()
    )
    terms = AuctionConfig(
        timeout_ms=1_000,
        late_grace_ms=100,
        push_reserve_ms=20,
        max_response_bytes=MAX_RESPONSE_BYTES,
        blocked_advertisers=(BLOCKED_DOMAIN,),
    )
    settings = replace(config(), aggregators=aggregators, auction=terms)
    return live_bidding_ports(settings, _EmptyLog(), AckedOffsets(), stack, SystemClock())


def decisions(ports: BiddingPorts, ids: list[str]) -> list[Decision]:
    """One auction for each id, all at once, as they leave."""
    now_ms = time.time_ns() // 1_000_000
    ended: Future[list[Decision]] = Future()

    async def work() -> None:
        found = [opportunity(auction_id=one, deadline_ms=now_ms + 30_000) for one in ids]
        auctions = (ports.house.auction(one, 1, time.perf_counter_ns()) for one in found)
        ended.set_result([ports.house.finish(decision, now_ms) for decision in await asyncio.gather(*auctions)])

    ports.executor.run_soon(work())
    return ended.result(60)


def refused(decision: Decision) -> dict[str, Outcome]:
    """The code of each aggregator, of which none has an ad accepted."""
    assert (decision.status, decision.ads, decision.push_id) == ("no_bid", (), None)
    names = [outcome.aggregator for outcome in decision.outcomes]
    assert len(names) == len(set(names))
    for outcome in decision.outcomes:
        assert outcome.ads_won == 0
        assert len(outcome.detail or "") <= 200
    return {outcome.aggregator: outcome.code for outcome in decision.outcomes}


class Memory:
    """By how much this process grows beyond what it has now."""

    def __init__(self) -> None:
        gc.collect()
        # Linux: 5 resets the peak to what is resident now.
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status_bytes("VmRSS")

    def check(self, calls: int) -> None:
        """At most 5 MiB are kept; nor was it more for a moment, except for what this many calls hold while they run."""
        gc.collect()
        kept, peak = (_status_bytes(field) - self._before for field in ("VmRSS", "VmHWM"))
        told = f"{kept / MIB:.1f} MiB more than before, {peak / MIB:.1f} MiB at its worst"
        assert kept < 5 * MIB, told
        # The reply, and as much that was read and not looked at yet.
        assert peak < 5 * MIB + calls * 2 * MAX_RESPONSE_BYTES, told


def _status_bytes(field: str) -> int:
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def ids(first: int, count: int) -> list[str]:
    return ids_of(range(first, first + count))


def ids_of(numbers: Iterable[int]) -> list[str]:
    return [auction_id(number) for number in numbers]


def test_every_mode_of_the_simulator_is_expected_to_end_somehow() -> None:
    assert EXPECTED.keys() == MODES.keys() - {"ok"}


def test_hostile_aggregators_have_no_ad_accepted_and_cost_no_memory(aggregators: dict[str, LocalAggregator]) -> None:
    with ExitStack() as stack:
        ports = opened(stack, {name: server.url for name, server in aggregators.items()})
        # Without this nothing would be shown: they are sound, and win.
        sound = decisions(ports, ids(0, 20))
        assert {decision.status for decision in sound} == {"won"}

        def play(mode: str, first: int) -> None:
            hostile = [name for name in aggregators if mode not in DIALECTS[name].cannot]
            for name, server in aggregators.items():
                changes = {"storm_share": 1.0, "storm_period_s": 1.0} if mode == "storm" else {}
                server.control(mode=mode if name in hostile else "http_500", **changes)
            # Those that time out take the whole time, and have no variants.
            auctions = AT_A_TIME if EXPECTED[mode] == {Outcome.TIMEOUT} else AUCTIONS_PER_MODE
            for start in range(first, first + auctions, AT_A_TIME):
                for decision in decisions(ports, ids(start, AT_A_TIME)):
                    codes = refused(decision)
                    for name in hostile:
                        assert codes[name] in EXPECTED[mode], (mode, name, decision.outcomes)

        # Replies as large as allowed, so that what any busy moment needs is there.
        play("oversized", 1_000)
        memory = Memory()
        for number, mode in enumerate(EXPECTED):
            play(mode, 2_000 + 100 * number)
        memory.check(calls=AT_A_TIME * len(aggregators))
        assert [server.stats().careless for server in aggregators.values()] == [0, 0, 0]


def test_hostile_replies_have_no_ad_accepted_and_cost_no_memory(corpus_port: int) -> None:
    url = f"http://127.0.0.1:{corpus_port}/bid"
    urls = {"openrtb": url, "simple": url, "vasttag": f"{url}?auction={{auction}}"}
    with ExitStack() as stack:
        houses = {name: opened(stack, {name: one}) for name, one in urls.items()}
        numbers = {name: [n for n, reply in enumerate(REPLIES) if reply.dialect == name] for name in urls}

        def play(dialect: str, replies: list[int]) -> None:
            for number, decision in zip(replies, decisions(houses[dialect], ids_of(replies)), strict=True):
                code = refused(decision)[dialect]
                # Empty documents are an honest no-bid, and a long one is cut off.
                allowed = {Outcome.INVALID_RESPONSE, Outcome.CREATIVE_REJECTED, Outcome.NO_BID, Outcome.OVERSIZE}
                assert code in allowed, (REPLIES[number].name, decision.outcomes)

        for dialect, replies in numbers.items():
            play(dialect, replies[:50])
        memory = Memory()
        for dialect, replies in numbers.items():
            for start in range(0, len(replies), AT_A_TIME):
                play(dialect, replies[start : start + AT_A_TIME])
        memory.check(calls=AT_A_TIME)


def test_closing_the_flow_ends_all_calls_and_connections(aggregators: dict[str, LocalAggregator]) -> None:
    server = aggregators["simple"]
    server.control(mode="silent")
    with ExitStack() as stack:
        ports = opened(stack, {"simple": server.url})
        (decision,) = decisions(ports, ids(9_000, 1))
        assert refused(decision) == {"simple": Outcome.TIMEOUT}
    deadline = time.monotonic() + 30
    while server.stats().in_flight:
        assert time.monotonic() < deadline, "the server still sees a call"
