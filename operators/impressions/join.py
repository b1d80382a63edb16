"""The join: displays and decisions by push id, whichever comes first. Pure."""

from __future__ import annotations

import msgspec

from datastreamx.snapshots import decode_versioned, encode_versioned
from datastreamx.tables import Row

VERSION = 3


class Billing(msgspec.Struct, frozen=True, array_like=True):
    """What the aggregator wants to hear once the ad is displayed.

    Attributes:
        url: `burl` of the bid, macros not yet substituted.
        price_micros: What is paid (CPM), in millionths of `currency`.
        currency: The one that the aggregator bid in.
    """

    url: str
    price_micros: int
    currency: str


class Push(msgspec.Struct, frozen=True, array_like=True):
    """What one ad of a decision adds to an impression; each ad of a break has its own."""

    auction_id: str
    aggregator: str
    price_micros: int
    currency: str
    channel_id: str
    decided_ms: int
    bid_id: str
    billing: Billing | None = None


class Display(msgspec.Struct, frozen=True, array_like=True):
    """A displayed ad, as its event told; times in milliseconds."""

    shown_time_ms: int
    box_key: str
    push_id: str
    ad_id: str
    shown_ms: int
    source_partition: int
    key_group: int
    source_offset: int
    ordinal: int


class Impression(msgspec.Struct, frozen=True):
    """A display and its push; `None` when the push stayed unknown."""

    display: Display
    push: Push | None


class _Snapshot(msgspec.Struct, array_like=True):
    version: int
    now_ms: int
    pushes: dict[str, Push]
    displays: dict[str, Display]


_DECODER = msgspec.msgpack.Decoder(_Snapshot)


class ImpressionJoin:
    """Pushes that wait for their display and displays that wait for their push, for one partition.

    Args:
        memory_ms: How long either waits, by the newest time seen in the stream. A push that was not displayed in this
            time is forgotten, a display whose push did not come becomes an unmatched impression.
    """

    def __init__(self, memory_ms: int, snapshot: bytes | None = None) -> None:
        self._memory_ms = memory_ms
        self._prune_every_ms = max(1, memory_ms // 16)
        self._pushes: dict[str, Push] = {}
        self._displays: dict[str, Display] = {}
        self._now_ms = 0
        if snapshot is not None:
            decoded = decode_versioned(snapshot, _DECODER, VERSION, "waiting impressions")
            self._now_ms, self._pushes, self._displays = decoded.now_ms, decoded.pushes, decoded.displays

    def on_push(self, push_id: str, push: Push) -> list[Impression]:
        """Take a winning decision into account."""
        display = self._displays.pop(push_id, None)
        if display is None:
            self._pushes[push_id] = push
        return self._advance(push.decided_ms, [Impression(display, push)] if display else [])

    def on_display(self, display: Display) -> list[Impression]:
        """Take a displayed ad into account. A second display of the same push never finds it again."""
        push = self._pushes.pop(display.push_id, None)
        waiting = None
        if push is None:
            waiting = self._displays.get(display.push_id)
            self._displays[display.push_id] = display
        ready = [Impression(display, push)] if push else []
        # Two displays wait for the same push: only one can be matched, the earlier one is given up.
        return self._advance(display.shown_time_ms, ready + ([Impression(waiting, None)] if waiting else []))

    def snapshot(self) -> bytes:
        """Sealed, versioned bytes of everything that waits."""
        return encode_versioned(_Snapshot(VERSION, self._now_ms, self._pushes, self._displays))

    def _advance(self, time_ms: int, ready: list[Impression]) -> list[Impression]:
        if time_ms <= self._now_ms:
            return ready
        # On a grid, not after an interval: a resume then gives up on the same displays at the same moments.
        grid_passed = time_ms // self._prune_every_ms > self._now_ms // self._prune_every_ms
        self._now_ms = time_ms
        if not grid_passed:
            return ready
        oldest_ms = self._now_ms - self._memory_ms
        given_up = [display for display in self._displays.values() if display.shown_time_ms < oldest_ms]
        for display in given_up:
            del self._displays[display.push_id]
        self._pushes = {push_id: push for push_id, push in self._pushes.items() if push.decided_ms >= oldest_ms}
        return ready + [Impression(display, None) for display in given_up]


def impression_row(impression: Impression) -> Row:
    """Row of the table impressions, values in column order."""
    display, push = impression.display, impression.push
    return (
        display.shown_time_ms * 1000,
        display.box_key,
        display.push_id,
        display.ad_id,
        display.shown_ms,
        push is not None,
        push.auction_id if push else None,
        push.aggregator if push else None,
        push.price_micros if push else None,
        push.currency if push else None,
        push.channel_id if push else None,
        push.decided_ms * 1000 if push else None,
        display.source_partition,
        display.key_group,
        display.source_offset,
        display.ordinal,
    )
