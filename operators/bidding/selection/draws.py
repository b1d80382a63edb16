"""Chance without a random number generator.

A draw is a hash of what it is for, so a replay repeats it, whatever ran before, in whichever process.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

_DIGEST_BYTES = 8
# A double holds 53 bits; more would round up to 1.0 now and then.
_DROPPED_BITS = 8 * _DIGEST_BYTES - 53
_UNIT = 2.0**-53


def draw(auction_id: str, purpose: str, aggregator: str = "") -> float:
    """Uniform number in [0, 1): the first 53 bits of BLAKE2b over the three, NUL between them.

    Different purposes and different aggregators give independent draws.
    """
    digest = blake2b(f"{auction_id}\0{purpose}\0{aggregator}".encode(), digest_size=_DIGEST_BYTES).digest()
    return (int.from_bytes(digest, "big") >> _DROPPED_BITS) * _UNIT


def independent(auction_id: str, candidates: Iterable[tuple[str, float]]) -> list[bool]:
    """Whether each (aggregator, probability) is drawn, independently of the others."""
    return [draw(auction_id, "select", aggregator) < probability for aggregator, probability in candidates]
