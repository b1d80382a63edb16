"""How viewers behave, as numbers with their sources."""

from __future__ import annotations

import msgspec

MIN_CHANNELS = 6
"""With fewer, the most popular channel's share nears one half, which no viewer who never re-tunes to it can reach."""

SESSION_QUANTILES_S: tuple[tuple[float, float], ...] = (
    (0.0, 1.0),
    (0.10, 4.0),
    (0.14, 10.0),
    (0.25, 30.0),
    (0.50, 108.0),
    (0.75, 426.0),
    (0.90, 1_358.0),
    (0.99, 7_012.0),
    (1.0, 14_400.0),
)
"""Time on one channel, `(probability, seconds)`: 10,000 sessions of a South African broadcaster, ends chosen here."""

WATCHING_BY_HOUR: tuple[tuple[float, float], ...] = (
    (0.0, 0.06),
    (3.0, 0.01),
    (4.0, 0.01),
    (12.0, 0.13),
    (18.0, 0.38),
    (20.0, 0.59),
)
"""Share of boxes that are on, `(hour, share)`: US time-use survey; linear in between and around midnight."""


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """All parameters of the viewers; durations are behaviour time, so a speed-up shrinks them.

    Attributes:
        channels: Channels on air; `ch01` is the most popular.
        zipf_exponent: The r-th channel is chosen in proportion to r to the power of minus this.
        zap_persistence: How likely a zap (a stay below the first quartile) is followed by a zap, and a stay by a
            stay, beyond chance. The distribution of stays is the same for every value.
        mood_ms: How long a viewer keeps to a plan for the evening; the share of boxes on does not depend on it.
        heartbeat_ms: A box that is on reports this often.
        boot_ms: From power on to the first tune.
        break_period_ms: Shortest and longest mean distance of a channel's ad breaks.
        break_durations_ms: Lengths of breaks, drawn evenly: some for one ad, most for several. A speed-up does not
            change what boxes report of them.
        break_lead_ms: A break is announced to the boxes this long before it starts...
        break_spread_ms: ...and boxes report it within this time, because they play the stream at different delays
            (1.5 segments of 6 s cover 90 % of ad calls in live streams).
        start_spread_ms: Boxes connect within this time at the start; event time, not shrunk by a speed-up.
        consent_share: Share of viewers that agree to the use of their viewing history.
    """

    channels: int = 40
    zipf_exponent: float = 0.83
    session_quantiles_s: tuple[tuple[float, float], ...] = SESSION_QUANTILES_S
    watching_by_hour: tuple[tuple[float, float], ...] = WATCHING_BY_HOUR
    zap_persistence: float = 0.5
    mood_ms: int = 7_200_000
    heartbeat_ms: int = 30_000
    boot_ms: int = 2_000
    break_period_ms: tuple[int, int] = (720_000, 1_080_000)
    break_durations_ms: tuple[int, ...] = (30_000, 60_000, 90_000, 120_000)
    break_lead_ms: int = 10_000
    break_spread_ms: int = 9_000
    start_spread_ms: int = 10_000
    consent_share: float = 0.9

    def __post_init__(self) -> None:
        """Refuse what the generator cannot honour; raises ValueError."""
        if self.channels < MIN_CHANNELS:
            raise ValueError(f"channels is {self.channels}, at least {MIN_CHANNELS} are needed")
        if self.break_spread_ms > self.break_lead_ms:
            raise ValueError(
                f"break_spread_ms ({self.break_spread_ms}) must not exceed break_lead_ms ({self.break_lead_ms}): "
                "else boxes report breaks that have begun"
            )
        if not 0.0 <= self.zap_persistence < 1.0:
            raise ValueError(f"zap_persistence is {self.zap_persistence}, it must be in [0, 1)")
        if not 0.0 <= self.consent_share <= 1.0:
            raise ValueError(f"consent_share is {self.consent_share}, it must be in [0, 1]")
