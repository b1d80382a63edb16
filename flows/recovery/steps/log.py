"""Stateful steps that the warehouse and the notices flow share: both read facts and decisions."""

from __future__ import annotations

from datastreamx.config import Config
from datastreamx.place import Place
from flows.recovery.steps.step import Step, source, versioned
from operators.decisions import firsts
from operators.impressions import join
from operators.repeats import marks
from operators.split.step import partition_key
from sources.kafka.layouts import log_layouts


def steps(flow: str, config: Config, place: Place) -> tuple[Step, ...]:
    """Those below the source of `flow` at a place."""
    keys = partition_keys(config, place)
    return (
        source(f"{flow}.topics", log_layouts(config, place)),
        versioned(f"{flow}.repeats.marks", keys, marks.VERSION),
        versioned(f"{flow}.decisions.firsts", keys, firsts.VERSION),
        versioned(f"{flow}.impressions.join", keys, join.VERSION),
    )


def partition_keys(config: Config, place: Place) -> frozenset[str]:
    """Keys of the partitions at a place."""
    return frozenset(partition_key(partition) for partition in place.partitions(config.events.partitions))
