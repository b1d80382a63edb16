"""Price floors: one number per (channel, hour, aggregator), from a default and rules. Pure."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from datastreamx.config import AuctionConfig, FloorRule

_HOUR_MS = 3_600_000
_HOURS_A_DAY = 24


class _Conditions(NamedTuple):
    """Which conditions a rule has."""

    channel: bool
    hour: bool
    aggregator: bool


# A place is one value per condition, `None` where a rule has none; a rank is the rule's number, then its floor.
_Place = tuple[str | None, int | None, str | None]
_Rank = tuple[int, int]
_NO_RULE: _Rank = (-1, 0)


class Floors:
    """Floors of one configuration.

    Of several rules that match, the one with the most conditions counts, of equals the later one. Rules are spread out
    over their values at the start, so that a lookup is at most eight dictionary reads, however many rules there are.
    """

    def __init__(self, config: AuctionConfig) -> None:
        self._default_micros = config.floor_micros
        self._ranks: dict[_Place, _Rank] = {}
        for number, rule in enumerate(config.floors):
            # Two rules that share a place have the same conditions there, so the later one replaces the earlier.
            self._ranks.update(dict.fromkeys(_places(rule), (number, rule.floor_micros)))
        used = {_conditions(rule) for rule in config.floors}
        by_count = (tuple(one for one in used if sum(one) == count) for count in (3, 2, 1, 0))
        self._levels = tuple(level for level in by_count if level)

    def floor_micros(self, channel_id: str, opportunity_ms: int, aggregator: str) -> int:
        """Lowest acceptable price (CPM) in millionths of the auction's currency.

        Args:
            channel_id: Channel of the opportunity.
            opportunity_ms: When it arose, milliseconds since the epoch; the hour is that of UTC.
            aggregator: Who is asked.
        """
        hour = opportunity_ms // _HOUR_MS % _HOURS_A_DAY
        for level in self._levels:
            number, floor_micros = max(
                self._ranks.get(
                    (
                        channel_id if has.channel else None,
                        hour if has.hour else None,
                        aggregator if has.aggregator else None,
                    ),
                    _NO_RULE,
                )
                for has in level
            )
            if number >= 0:
                return floor_micros
        return self._default_micros


def _conditions(rule: FloorRule) -> _Conditions:
    return _Conditions(bool(rule.channels), bool(rule.hours_utc), bool(rule.aggregators))


def _places(rule: FloorRule) -> product[_Place]:
    return product(rule.channels or (None,), rule.hours_utc or (None,), rule.aggregators or (None,))
