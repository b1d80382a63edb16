"""How long to wait for one aggregator, learned from how long it has taken lately."""

from __future__ import annotations

import math

_SHORTEST_US = 100
_LONGEST_US = 60_000_000
_GROWTH = 1.05
_LOG_GROWTH = math.log(_GROWTH)
_BUCKETS = math.ceil(math.log(_LONGEST_US / _SHORTEST_US) / _LOG_GROWTH) + 1
_LARGEST_WEIGHT = 1e100
"""Weights are scaled down before they reach this; far from the end of what a float holds."""


class LatencyHistogram:
    """Latencies in log-spaced buckets, old ones forgotten exponentially.

    Buckets from 0.1 ms to 60 s, each 5 % wider than the last, so a quantile is at most 5 % too high and never too low
    (within those limits). Forgetting is by count, not by time: a quiet night teaches nothing, so it erases nothing.
    Instead of decaying all 274 buckets with every answer, each answer weighs a little more than the one before.

    Args:
        window: About how many answers matter. The weights are as good as a plain window of this many: the decay per
            answer is 1 - 2 / (window + 1), whose effective sample size is `window`.
    """

    def __init__(self, window: int = 1_000) -> None:
        if window < 1:
            raise ValueError(f"the window of a latency histogram must be at least 1, not {window}")
        self._growth = (window + 1) / max(window - 1, 0.5)
        self._weight = 1.0
        self._weights = [0.0] * _BUCKETS
        self._total = 0.0
        self._count = 0

    @property
    def count(self) -> int:
        """Answers ever added."""
        return self._count

    def add(self, latency_us: int) -> None:
        """Learn from one answer that took `latency_us` microseconds."""
        self._weights[_bucket(latency_us)] += self._weight
        self._total += self._weight
        self._count += 1
        self._weight *= self._growth
        if self._weight > _LARGEST_WEIGHT:
            self._weights = [weight / self._weight for weight in self._weights]
            self._total = math.fsum(self._weights)
            self._weight = 1.0

    def quantile(self, q: float) -> int | None:
        """Microseconds within which a share `q` of the answers came; None before the first answer.

        Raises:
            ValueError: `q` is not above 0 and at most 1.
        """
        if not 0 < q <= 1:
            raise ValueError(f"a quantile is above 0 and at most 1, not {q}")
        if self._count == 0:
            return None
        above = (1 - q) * self._total
        # From the slow end: what is asked for lies there, and few buckets are passed on the way.
        for bucket in range(_BUCKETS - 1, -1, -1):
            above -= self._weights[bucket]
            if above < 0:
                return _upper_us(bucket)
        return _upper_us(0)


def _bucket(latency_us: int) -> int:
    if latency_us <= _SHORTEST_US:
        return 0
    return min(math.ceil(math.log(latency_us / _SHORTEST_US) / _LOG_GROWTH), _BUCKETS - 1)


def _upper_us(bucket: int) -> int:
    return math.ceil(_SHORTEST_US * _GROWTH**bucket)


class TimeBudget:
    """How long one aggregator is waited for, and what it is told about it.

    The timeout is the 99th percentile of the calls that matter, times 1.25, between a quarter of the cap (but at least
    `min_call_ms`) and the cap. It is the cap until 100 calls were observed.

    Why this: nearly all answers that can be had come within p99, and the margin leaves room for an evening that is a
    little slower than the last 1,000 calls. What is saved is the wait for the rest, which an auction would otherwise
    spend on nearly every break, because with five aggregators one in twenty auctions meets somebody's slowest percent.

    Why it finds back up: a call without an answer is a censored observation. It took longer than we waited, nobody
    knows how much, so it counts as one that takes the whole cap. Left out, or counted with the time we waited, the
    estimate would consist of the answers that were quick enough, each shorter timeout would cut off more of the slow
    ones, and an aggregator that became slower than its timeout would never be heard again. Counted as the cap, one
    percent of calls without an answer is enough to wait for the cap again. Answers that are read after the deadline
    are real observations and tell how far the timeout must really rise.

    An aggregator that leaves more than one call in a hundred unanswered for good is thus always given the cap. That is
    the safe side: the auction has its own deadline, and sparing its time is what the throttle is for.

    Args:
        cap_ms: Longest wait, from the configuration.
        min_call_ms: With less time than this it is not called.
        dynamic: False: the timeout is always the cap.
    """

    _QUANTILE = 0.99
    _MARGIN = 1.25
    _MIN_CALLS = 100
    """Fewer calls have no 99th percentile."""
    _STRIDE = 16
    """Calls between two looks at the histogram: a look costs several times as much as all the rest of `observe`."""
    _FLOOR_DIVISOR = 4
    _NETWORK_WINDOW = 50

    def __init__(self, cap_ms: int, min_call_ms: int, dynamic: bool) -> None:  # noqa: FBT001 - a configuration value
        if cap_ms < 1 or min_call_ms < 1:
            raise ValueError(f"cap_ms ({cap_ms}) and min_call_ms ({min_call_ms}) must be at least 1")
        self._cap_ms = cap_ms
        self._min_call_ms = min_call_ms
        self._floor_ms = min(cap_ms, max(min_call_ms, cap_ms // self._FLOOR_DIVISOR))
        self._dynamic = dynamic
        self._timeout_ms = cap_ms
        self._latency = LatencyHistogram()
        self._network = LatencyHistogram(self._NETWORK_WINDOW)
        self._network_ms = 0

    @property
    def timeout_ms(self) -> int:
        """Longest wait now, if the auction leaves that much."""
        return self._timeout_ms

    @property
    def network_ms(self) -> int:
        """About one round trip to the aggregator, rounded up; 0 until a connection was observed."""
        return self._network_ms

    def observe(self, latency_us: int, *, answered: bool) -> None:
        """Learn from one call. Call it exactly once per call, when it is really over.

        A call that is read on after its deadline is over when its answer has come (`answered=True`, the whole time)
        or when the grace has passed too (`answered=False`). Calls that failed at once (refused, 5xx) say nothing about
        how long a bid takes: leave them out, else a minute of instant errors shrinks the timeout.

        Args:
            latency_us: From sending to the last byte, or to giving up.
            answered: False: given up.
        """
        self._latency.add(latency_us if answered else max(latency_us, self._cap_ms * 1000))
        if self._dynamic and self._latency.count >= self._MIN_CALLS and self._latency.count % self._STRIDE == 0:
            self._timeout_ms = self._learned_ms()

    def observe_connect(self, connect_us: int, tls: bool) -> None:  # noqa: FBT001 - what kind of connection it was
        """Learn the network's part from opening one connection, name lookup excluded.

        TCP's handshake is one round trip. That of TLS 1.3 is one more, so half of the time is taken; with TLS 1.2 this
        is too much by a half, which only makes the aggregator answer a little earlier. The median is used: a lost SYN
        costs a second and says nothing about the path.

        Args:
            connect_us: From the first packet to the connection's being usable.
            tls: Whether it includes the handshake of TLS.
        """
        self._network.add(connect_us // 2 if tls else connect_us)
        median_us = self._network.quantile(0.5)
        self._network_ms = math.ceil((median_us or 0) / 1000)

    def wait_ms(self, remaining_ms: int) -> int | None:
        """How long to wait for the answer of a call that is made now; None: do not call.

        Args:
            remaining_ms: What the auction has left. The wait never exceeds it.
        """
        wait_ms = min(self._timeout_ms, remaining_ms)
        return wait_ms if wait_ms >= self._min_call_ms else None

    def tmax_ms(self, wait_ms: int) -> int:
        """What the aggregator is told when we wait `wait_ms`: the wait without the network's part, at least 1."""
        return max(1, wait_ms - self._network_ms)

    def _learned_ms(self) -> int:
        quantile_us = self._latency.quantile(self._QUANTILE)
        if quantile_us is None:
            return self._cap_ms
        return min(self._cap_ms, max(self._floor_ms, math.ceil(quantile_us * self._MARGIN / 1000)))
