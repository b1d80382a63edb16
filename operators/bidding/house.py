"""The auction house: one thread with an event loop per worker process, where all auctions of the process run.

The worker hands over a batch with one thread-safe call and collects decisions from a queue per key group; neither side
ever waits for the other.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence

import aiohttp
import msgspec

from datastreamx import metrics
from datastreamx.clock import Clock
from datastreamx.config import AuctionConfig
from datastreamx.errors import CrashError
from datastreamx.model.auction import Decision, Opportunity, Outcome
from operators.bidding.auction import bid_request, decide, time_for_calls_ms, undecided
from operators.bidding.caller import Caller

# The interpreter lets a busy thread keep the lock for 5 ms by default; that long a reply would lie unread.
_SWITCH_INTERVAL_S = 0.000_5


class InFlight(msgspec.Struct, frozen=True):
    """An opportunity whose auction has not been decided; part of the snapshot.

    Attributes:
        attempt: 1, and one more for every time it was issued again after a crash.
    """

    opportunity: Opportunity
    attempt: int


class AuctionHouse:
    """Runs auctions.

    Args:
        callers: One per configured aggregator; all are asked.
        config: Limits.
        clock: Wall clock that deadlines are compared with.
    """

    def __init__(self, callers: Sequence[Caller], config: AuctionConfig, clock: Clock) -> None:
        self._callers = tuple(callers)
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._in_flight = 0
        self._decided: defaultdict[str, deque[Decision]] = defaultdict(deque)
        self._fault: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(config.concurrency)

    @property
    def aggregators(self) -> tuple[str, ...]:
        """Names of all aggregators."""
        return tuple(caller.name for caller in self._callers)

    def reserve(self, *, beyond_capacity: bool = False) -> bool:
        """Take a place for one auction; False when all `capacity` places are taken."""
        with self._lock:
            if self._in_flight >= self._config.capacity and not beyond_capacity:
                return False
            self._in_flight += 1
            metrics.AUCTIONS_IN_FLIGHT.set(self._in_flight)
            return True

    def submit(self, key: str, auctions: list[InFlight]) -> None:
        """Start auctions for which places were reserved; their decisions will be collected under `key`."""
        if not auctions:
            return
        handed_over_ns = time.perf_counter_ns()
        self._running_loop().call_soon_threadsafe(self._start, key, auctions, handed_over_ns)

    def collect(self, key: str) -> list[Decision]:
        """Decisions made since the last call, in the order in which they were made; frees their places.

        Raises:
            CrashError: An auction failed by a fault of this program.
        """
        if self._fault is not None:
            raise CrashError(f"an auction failed by a fault of the program: {self._fault!r}") from self._fault
        queue = self._decided[key]
        decisions = [queue.popleft() for _ in range(len(queue))]
        if decisions:
            with self._lock:
                self._in_flight -= len(decisions)
                metrics.AUCTIONS_IN_FLIGHT.set(self._in_flight)
        return decisions

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                sys.setswitchinterval(_SWITCH_INTERVAL_S)
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="auction-house", daemon=True)
                self._thread.start()
            return self._loop

    def _start(self, key: str, auctions: list[InFlight], handed_over_ns: int) -> None:
        if self._session is None:
            # No connection limit here: the default of 100 would make calls wait for each other unseen. No total
            # timeout either: each call has its own, and two timers would race.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=60),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        for auction in auctions:
            task = asyncio.get_running_loop().create_task(self._run(key, auction, handed_over_ns, self._session))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, key: str, auction: InFlight, handed_over_ns: int, session: aiohttp.ClientSession) -> None:
        try:
            async with self._turns:
                decision = await self._auction(auction, handed_over_ns, session)
        except Exception as error:  # noqa: BLE001 - carried to the worker's thread, where it stops the flow
            self._fault = error
        else:
            self._decided[key].append(decision)

    async def _auction(self, auction: InFlight, handed_over_ns: int, session: aiohttp.ClientSession) -> Decision:
        opportunity = auction.opportunity
        started_ns = time.perf_counter_ns()
        tmax_ms = time_for_calls_ms(opportunity, self._clock.now_ms(), self._config)
        if tmax_ms < self._config.min_call_ms:
            return undecided(opportunity, Outcome.EXPIRED, self.aggregators, self._clock.now_ms())
        request = bid_request(opportunity, tmax_ms, self._config)
        results = await asyncio.gather(*(caller.call(session, request) for caller in self._callers))
        return decide(
            opportunity,
            tuple(results),
            self._config,
            attempt=auction.attempt,
            now_ms=self._clock.now_ms(),
            queue_us=(started_ns - handed_over_ns) // 1000,
            auction_us=(time.perf_counter_ns() - started_ns) // 1000,
        )

    def close(self) -> None:
        """Stop the loop and its thread; running auctions are dropped (they are in the snapshot)."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), loop).result(timeout=5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=5)
        loop.close()

    async def _shut_down(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
