"""Which parts each source has at a place, and what each of them reads."""

from __future__ import annotations

from datastreamx.config import Config
from datastreamx.place import Place
from sources.kafka.positions import Layout
from sources.kafka.start import split_among


def event_layouts(config: Config, place: Place) -> dict[str, Layout]:
    """Parts of the ads flow's source, by name."""
    return _layouts((config.topics.events,), config, place)


def log_layouts(config: Config, place: Place) -> dict[str, Layout]:
    """Parts of the warehouse's and the notices flow's source, by name."""
    return _layouts((config.topics.facts, config.topics.decisions), config, place)


def _layouts(topics: tuple[str, ...], config: Config, place: Place) -> dict[str, Layout]:
    events = config.events
    return {
        f"reader-{reader:02d}": Layout(
            topics=topics,
            partitions=share,
            partition_count=events.partitions,
            groups_per_partition=events.groups_per_partition,
        )
        for reader, share in enumerate(split_among(place.partitions(events.partitions), place.readers))
        if share
    }
