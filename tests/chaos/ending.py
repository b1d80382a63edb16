"""What is done and looked at when a campaign comes to its end, whatever it ran on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from confluent_kafka import Message

from datastreamx.config import Config
from datastreamx.model.events import Heartbeat
from datastreamx.wire.dead_letters import parse_dead_letter
from datastreamx.wire.events import encode_event
from simulator.aggregators.handle import LocalAggregator
from simulator.aggregators.notices import Notice
from tests.integration.brokers import Broker, produce
from tests.integration.kill_audit import heard_of, owed
from tests.integration.oracle import Evidence, decided
from tests.integration.pipeline import now_ms
from tests.integration.reading import read_topic


def give_signs_of_life(broker: Broker, config: Config) -> None:
    """Write one event into every partition, so that every process has something to do after its last resume."""
    at_ms = now_ms()
    events = [
        Heartbeat(event_id=f"last-{n}", box_id=f"stb-last-{n}", seq=1, event_time_ms=at_ms)
        for n in range(config.events.partitions)
    ]
    produce(broker, config.topics.events, [(n, one.box_id.encode(), encode_event(one)) for n, one in enumerate(events)])


def told(aggregators: Iterable[LocalAggregator]) -> dict[str, list[Notice]]:
    """What each aggregator was told of its bids."""
    return {one.name: one.notices() for one in aggregators}


def letters(broker: Broker, config: Config) -> dict[str, set[str]]:
    """Reasons of dead letters about notices, by notice; others have no key, or that of a box."""
    found: dict[str, set[str]] = {}
    for message in read_topic(broker, config.topics.dead_letters, 1):
        letter = parse_dead_letter(message.key(), message.value(), message.headers() or [])  # type: ignore[arg-type]
        if letter.reason.startswith("notice_"):
            found.setdefault((letter.key or b"").decode(errors="replace"), set()).add(letter.reason)
    return found


def untold(
    broker: Broker, config: Config, aggregators: Iterable[LocalAggregator], sound: Iterable[Message]
) -> set[str]:
    """Notices that aggregators are owed, and that were neither heard nor given up so far.

    Args:
        broker: Where the topics are.
        config: That of the flows.
        aggregators: All of them.
        sound: Events of the boxes that are no dead letters.
    """
    decisions = read_topic(broker, config.topics.decisions, config.events.partitions)
    wanted = owed(config, decided(decisions), sound)
    return wanted.keys() - heard_of(told(aggregators)).keys() - letters(broker, config).keys()


def except_notices(evidence: Evidence) -> Evidence:
    """Without the dead letters about notices: those are compared with what aggregators were told."""
    kept = {origin: reason for origin, reason in evidence.dead_letters.items() if not reason.startswith("notice_")}
    return replace(evidence, dead_letters=kept)
