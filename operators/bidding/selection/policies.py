"""The policy that the configuration names."""

from __future__ import annotations

from typing import assert_never

from datastreamx.config import SelectionConfig
from operators.bidding.selection.exploring import Exploring
from operators.bidding.selection.fixed import CallAll, Waterfall, Weighted
from operators.bidding.selection.protocol import SelectionPolicy
from operators.bidding.selection.thompson import Thompson


def build_policy(config: SelectionConfig, aggregators: tuple[str, ...]) -> SelectionPolicy:
    """The configured policy, with exploration.

    Args:
        config: `[selection]`.
        aggregators: Names of all configured aggregators: the candidates, in the order of all selections.
    """
    return Exploring(_inner(config, aggregators), config.explore)


def _inner(config: SelectionConfig, aggregators: tuple[str, ...]) -> SelectionPolicy:
    match config.policy:
        case "all":
            return CallAll(aggregators)
        case "waterfall":
            return Waterfall(aggregators, config.order)
        case "weighted":
            return Weighted(aggregators, config.weights, config.min_probability)
        case "thompson":
            return Thompson(aggregators, config.calls, config.min_probability, config.channel_groups)
        case unknown:
            assert_never(unknown)
