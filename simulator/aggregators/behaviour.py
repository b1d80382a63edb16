"""How an aggregator behaves, and what it therefore does with one auction: a pure function of seed and auction id."""

from __future__ import annotations

import math
from hashlib import blake2b
from statistics import NormalDist
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Probability = Annotated[float, Meta(ge=0, le=1)]
Latency = Annotated[float, Meta(gt=0, le=600_000)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
PriceMicros = Annotated[int, Meta(ge=1, le=10**15)]

_NORMAL = NormalDist()
_Z95 = _NORMAL.inv_cdf(0.95)
_Z99 = _NORMAL.inv_cdf(0.99)
_CENT_MICROS = 10_000
_DRAW_BYTES = 8
_DRAW_RANGE = 2.0 ** (8 * _DRAW_BYTES)
# Each further ad of a break is offered for this much less than the one before.
_FOLLOWING_DISCOUNT = 0.05


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be changed while the server runs.

    Attributes:
        latency_p50_ms: Median time to answer; latencies are lognormal.
        latency_p99_ms: One answer in a hundred takes longer.
        fill_rate: Share of auctions in which it wants to bid.
        price_p05_micros: One bid in twenty is cheaper (CPM); prices are lognormal and end in whole cents.
        price_p95_micros: One bid in twenty is dearer.
        currency: What prices are in, whatever was asked for.
        creative: How the ad is handed over: address, VAST document in the bid (only OpenRTB can, otherwise an
            address), or only the id of an ad that the boxes hold already.
        respects_floor: Does not bid below the floor, as it should.
        mode: What goes wrong, see `simulator.aggregators.modes`; `ok` is nothing.
        mode_probability: In which share of the auctions the mode applies; the others are `ok`.
        slow_ms: What the mode `slow` adds to the latency.
        drip_interval_ms: Time between two bytes in the modes `drip` and `slow_head`.
        storm_period_s: The mode `storm` is healthy and then fails once in this time, counted from the start.
        storm_share: Share of the period, at its end, in which it fails.
        notices: Bids carry addresses at which the server wants to hear of win, loss and billing.
        notice_origin: Scheme, host and port of these; empty: those on which it listens.
        notice_mode: What becomes of a notice: accepted, refused with 500, never answered, or refused now and then.
        notice_failures: In the notice mode `flaky`, share of the attempts that are refused.
    """

    latency_p50_ms: Latency = 40.0
    latency_p99_ms: Latency = 120.0
    fill_rate: Probability = 0.9
    price_p05_micros: PriceMicros = 8_000_000
    price_p95_micros: PriceMicros = 16_000_000
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$")] = "USD"
    creative: Literal["url", "inline", "preloaded"] = "url"
    respects_floor: bool = True
    mode: str = "ok"
    mode_probability: Probability = 1.0
    slow_ms: Latency = 2_000.0
    drip_interval_ms: Latency = 100.0
    storm_period_s: Seconds = 20.0
    storm_share: Probability = 0.5
    notices: bool = False
    notice_origin: str = ""
    notice_mode: Literal["ok", "http_500", "silent", "flaky"] = "ok"
    notice_failures: Probability = 0.5

    def __post_init__(self) -> None:
        if self.latency_p99_ms < self.latency_p50_ms:
            raise ValueError("latency_p99_ms must not be below latency_p50_ms")
        if self.price_p95_micros < self.price_p05_micros:
            raise ValueError("price_p95_micros must not be below price_p05_micros")


PROFILES: dict[str, Behaviour] = {
    "steady": Behaviour(),
    "fast": Behaviour(latency_p50_ms=12, latency_p99_ms=40, fill_rate=0.6, price_p05_micros=6_000_000),
    "slow": Behaviour(latency_p50_ms=140, latency_p99_ms=500, price_p05_micros=10_000_000, price_p95_micros=20_000_000),
    "picky": Behaviour(fill_rate=0.2, price_p05_micros=14_000_000, price_p95_micros=30_000_000),
    "flaky": Behaviour(mode="http_500", mode_probability=0.05),
    # Answers at once and always: for tests and load, where the aggregator must not be what is measured.
    "instant": Behaviour(latency_p50_ms=0.001, latency_p99_ms=0.001, fill_rate=1.0),
}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the aggregator does with one auction.

    Attributes:
        pick: Number in [0, 1) that chooses the ad.
    """

    mode: str
    latency_ms: float
    wants_to_bid: bool
    price_micros: int
    pick: float


def decide(behaviour: Behaviour, seed: int, name: str, auction_id: str) -> Plan:
    """What the aggregator `name` does with an auction. A repeated request gets the same answer.

    Every aspect has a draw of its own, so that changing one leaves the others as they were: a higher fill rate adds
    bids and changes none.
    """
    mode, latency, fill, price, pick = draws(5, seed, name, auction_id)
    return Plan(
        mode=behaviour.mode if mode < behaviour.mode_probability else "ok",
        latency_ms=_latency_ms(behaviour, latency),
        wants_to_bid=fill < behaviour.fill_rate,
        price_micros=_price_micros(behaviour, price),
        pick=pick,
    )


def draws(count: int, seed: int, *names: object) -> list[float]:
    """`count` numbers in [0, 1] that follow from `seed` and `names`; at most eight."""
    text = "\0".join(map(str, (seed, *names)))
    digest = blake2b(text.encode(), digest_size=count * _DRAW_BYTES).digest()
    return [
        (int.from_bytes(digest[i : i + _DRAW_BYTES], "big") + 0.5) / _DRAW_RANGE
        for i in range(0, len(digest), _DRAW_BYTES)
    ]


def price_at(plan: Plan, place: int) -> int:
    """Price of the ad at `place` of a break, from 0, in whole cents, at least one."""
    if place == 0:
        return plan.price_micros
    cents = plan.price_micros * (1 - _FOLLOWING_DISCOUNT) ** place // _CENT_MICROS
    return max(1, int(cents)) * _CENT_MICROS


def _latency_ms(behaviour: Behaviour, probability: float) -> float:
    """Lognormal quantile: p50 · (p99 / p50) ^ (z / z99)."""
    spread = behaviour.latency_p99_ms / behaviour.latency_p50_ms
    return behaviour.latency_p50_ms * math.pow(spread, _z(probability) / _Z99)


def _price_micros(behaviour: Behaviour, probability: float) -> int:
    """Lognormal quantile with median √(p05 · p95), in whole cents, at least one."""
    low, high = behaviour.price_p05_micros, behaviour.price_p95_micros
    price = math.sqrt(low * high) * math.pow(high / low, _z(probability) / (2 * _Z95))
    return max(1, round(price / _CENT_MICROS)) * _CENT_MICROS


def _z(probability: float) -> float:
    # The largest draw rounds to 1.0, which has no quantile.
    return _NORMAL.inv_cdf(min(probability, 1 - 2.0**-53))
