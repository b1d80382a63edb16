"""Calls an aggregator less often while most of its calls fail.

A ramp, not a breaker: a breaker swings between everything and nothing, and a partner that answers every other call is
worth half its calls. The shape is that of Prebid Server's bidder throttling. What differs: every call is scored exactly
once, by its end. Scoring parts of a call (connected quickly: good; status 500: bad) lets one that fails completely
settle near one half, where hardly anything is throttled.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

_WINDOW = 300
"""Calls that the health remembers: a score weighs 1/300, and 1/e of that 300 scores later.

Of a health of 1, 1,000 failures leave e^(-1000/300) = 0.036, far below the end of the ramp (reached after 483).
1,000 successes then bring it to 0.966, far above its start (reached after fewer than 208)."""

_HEALTHY = 0.5
"""From here on everything is admitted. Timeouts of a busy evening must not cost a partner calls at once."""

_ILL = 0.2
"""Down to here the share falls; below, only probes are left."""

_PROBES = 0.1
"""Share that is always admitted: without calls nobody would notice that the aggregator has recovered."""

_HASH_BYTES = 8
_HASH_RANGE = float(1 << (8 * _HASH_BYTES))


class Throttle:
    """Health of one aggregator, and which auctions may still call it.

    Args:
        aggregator: Its configured name.
        mode: `on`; `simulate`: admits everything, `simulated_share` tells what `on` would do; `off`: admits everything.
    """

    def __init__(self, aggregator: str, mode: Literal["on", "simulate", "off"]) -> None:
        self._aggregator = aggregator
        self._mode = mode
        self._health = 1.0

    @property
    def health(self) -> float:
        """Moving share of good calls, 0 to 1; 1 before the first call."""
        return self._health

    @property
    def simulated_share(self) -> float:
        """Share of auctions that `on` would admit at this health, 0.1 to 1, whatever the mode is."""
        if self._health >= _HEALTHY:
            return 1.0
        ramp = (self._health - _ILL) / (_HEALTHY - _ILL)
        return _PROBES + (1 - _PROBES) * max(0.0, ramp)

    @property
    def share(self) -> float:
        """Share of auctions that are admitted now, 0.1 to 1."""
        return self.simulated_share if self._mode == "on" else 1.0

    def admits(self, auction_id: str) -> bool:
        """Whether this auction may call the aggregator.

        Follows from the id and the share alone, so a repeat at the same health repeats the choice. An auction that is
        admitted at some share is admitted at every higher one.
        """
        share = self.share
        if share == 1.0:
            return True
        # The first word keeps this apart from other choices that hash the same two names: else the auctions that a
        # policy picked would be the very ones that are throttled.
        text = f"throttle\0{self._aggregator}\0{auction_id}"
        drawn = int.from_bytes(blake2b(text.encode(), digest_size=_HASH_BYTES).digest(), "big")
        return drawn / _HASH_RANGE < share

    def record(self, ok: bool) -> None:  # noqa: FBT001 - the one thing that a score is
        """Score one call. Call it exactly once per call, at its end, and never for a call that was not made.

        Args:
            ok: The aggregator did its part: a bid, or a no-bid. Not: timeout, 5xx, unreachable, invalid, oversize.
        """
        self._health += ((1.0 if ok else 0.0) - self._health) / _WINDOW
