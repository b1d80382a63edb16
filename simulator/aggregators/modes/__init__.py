"""The ways in which an aggregator answers, or fails to: one small function each.

A new one is a function and its line in `MODES`.
"""

from __future__ import annotations

from simulator.aggregators.modes.bodies import BOMBS, deep, garbage, oversized
from simulator.aggregators.modes.exchange import Mode
from simulator.aggregators.modes.failures import http_500, redirect, reset, silent, storm
from simulator.aggregators.modes.offers import SPOILT
from simulator.aggregators.modes.pace import chunk_flood, drip, ok, slow, slow_head

MODES: dict[str, Mode] = {
    "ok": ok,
    "silent": silent,
    "slow": slow,
    "slow_head": slow_head,
    "drip": drip,
    "chunk_flood": chunk_flood,
    "http_500": http_500,
    "storm": storm,
    "redirect": redirect,
    "reset": reset,
    "garbage": garbage,
    "oversized": oversized,
    "deep": deep,
    **BOMBS,
    **SPOILT,
}
