"""Stateful steps of the ads flow."""

from __future__ import annotations

from datastreamx.config import Config
from datastreamx.place import Place
from flows.recovery.steps.step import Step, dead_letters, groups, source, stateless
from operators.async_map import snapshot as jobs
from operators.viewing import snapshot as viewing
from sinks import ad_push, facts
from sinks.ad_push import snapshot as push
from sources.kafka.layouts import event_layouts


def steps(config: Config, place: Place) -> tuple[Step, ...]:
    """All of them at a place."""

    def look_at_push(value: bytes) -> None:
        push.decode_acked(value, config.topics.decisions)

    keys = groups(config, place)
    return (
        source("ads.events", event_layouts(config, place)),
        Step("ads.viewing.state", keys, viewing.VERSION, viewing.snapshot_key),
        Step("ads.bidding.auctions.jobs", keys, jobs.VERSION, jobs.snapshot_key),
        Step("ads.push", frozenset({ad_push.sink.PART}), push.VERSION, look_at_push),
        stateless("ads.facts", facts.sink.PART),
        dead_letters("ads.dead_letters"),
    )
