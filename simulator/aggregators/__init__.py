"""Third-party ad aggregators as real HTTP servers, well-behaved or not, switchable while they run."""

from simulator.aggregators.behaviour import Behaviour
from simulator.aggregators.handle import LocalAggregator
from simulator.aggregators.notices import Notice
from simulator.aggregators.stats import Stats

__all__ = ["Behaviour", "LocalAggregator", "Notice", "Stats"]
