"""What the ads flow leaves on its topics, for `benchmarks.warehouse`.

    python -m benchmarks.warehouse_data DIRECTORY EVENTS

Facts are those that the viewing operator makes of the traffic, in messages as full as they are when the ads flow
catches up, and as small as live traffic makes them; decisions are about the opportunities that arise on the way.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.contest import tell
from benchmarks.warehouse_rig import (
    DECISIONS,
    FULL,
    GROUPS,
    LIVE,
    LIVE_ROWS,
    PARTITIONS,
    Message,
    Poll,
    config_for,
)
from datastreamx.config import Config
from datastreamx.model import identity
from datastreamx.model.auction import AggregatorOutcome, Decision, Opportunity, Outcome, WinningAd
from datastreamx.model.facts import Facts
from datastreamx.model.keygroup import KeyGroup
from datastreamx.tables import AD_DECISIONS, BIDS, BOX_EVENTS
from datastreamx.wire.decisions import encode_decision
from datastreamx.wire.facts import FactBatch, encode_facts, in_columns
from flows.bench.effort import Stopwatch
from operators.decode.records import decode_chunk
from operators.viewing.state import KeyGroupState, ViewingOutput
from operators.viewing.warm import warm_up
from simulator.traffic import chunks
from sinks.facts.coalesce import Coalescer
from sources.kafka.warehouse import POLL_BYTES

BOXES = 300_000
DECISIONS_MAX = 20_000
DECISIONS_PER_POLL = 500
OUTCOMES = (
    Outcome.WON,
    Outcome.OUTBID,
    Outcome.OUTBID,
    Outcome.NO_BID,
    Outcome.NO_BID,
    Outcome.BELOW_FLOOR,
    Outcome.TIMEOUT,
    Outcome.NOT_SELECTED,
)
_WITH_A_BID = {Outcome.WON, Outcome.OUTBID, Outcome.BELOW_FLOOR}


def prepare(count: int, directory: Path) -> None:
    """Write the three sets of messages of `count` events."""
    warm_up()
    config = config_for("none:1")
    facts: list[Facts] = []
    opportunities: list[Opportunity] = []
    for place, out in _viewed(config, count, config.events.chunk_records):
        facts += _facts(place, out)
        opportunities += out.opportunities
    (directory / FULL).write_bytes(msgspec.msgpack.encode(_full_polls(facts)))
    (directory / DECISIONS).write_bytes(msgspec.msgpack.encode(_decision_polls(opportunities[:DECISIONS_MAX])))
    small = (in_columns([piece]) for place, out in _viewed(config, count, LIVE_ROWS) for piece in _facts(place, out))
    (directory / LIVE).write_bytes(msgspec.msgpack.encode(_live_polls(small)))


def _viewed(config: Config, count: int, records: int) -> Iterator[tuple[KeyGroup, ViewingOutput]]:
    pseudonym = partial(identity.box_key, config.privacy.box_key_secret.reveal().encode())
    states: dict[KeyGroup, KeyGroupState] = {}
    for chunk in chunks(BOXES, count, PARTITIONS, GROUPS, records):
        place = KeyGroup(chunk.partition, chunk.group)
        state = states.get(place)
        if state is None:
            state = states[place] = KeyGroupState(place, config.viewing, config.topics.events, pseudonym)
        yield place, state.process(decode_chunk(chunk, config.topics.events, config.events.max_clock_skew_ms))


def _facts(place: KeyGroup, out: ViewingOutput) -> list[Facts]:
    if out.events is None:
        return []
    return [Facts(BOX_EVENTS.name, place.partition, place.group, out.events)]


def _message(facts: FactBatch) -> Message:
    value, headers = encode_facts(facts)
    return Message(facts.partition, {facts.table: facts.rows.num_rows}, value, headers)


def _full_polls(facts: Iterable[Facts]) -> list[Poll]:
    """Messages are full, and the client returns as much of one partition as a poll takes."""
    coalescer = Coalescer()
    by_partition: dict[int, list[Message]] = {number: [] for number in range(PARTITIONS)}
    for batch in [*(full for one in facts for full in coalescer.add(one, 0.0)), *coalescer.drain()]:
        by_partition[batch.partition].append(_message(batch))
    polls: list[Poll] = []
    for messages in by_partition.values():
        size = POLL_BYTES
        for message in messages:
            if size + len(message.value) > POLL_BYTES:
                polls.append([[]])
                size = 0
            polls[-1][0].append(message)
            size += len(message.value)
    return polls


def _live_polls(facts: Iterable[FactBatch]) -> list[Poll]:
    """Every key group has sent one small message, 200 ms after the one before."""
    rounds: list[dict[int, list[Message]]] = []
    sent: dict[tuple[int, int], int] = {}
    for batch in facts:
        place = (batch.partition, batch.group)
        number = sent[place] = sent.get(place, -1) + 1
        if number == len(rounds):
            rounds.append({})
        rounds[number].setdefault(batch.partition, []).append(_message(batch))
    return [[*one.values()] for one in rounds]


def _decision_polls(opportunities: list[Opportunity]) -> list[Poll]:
    polls: list[Poll] = []
    for first in range(0, len(opportunities), DECISIONS_PER_POLL):
        by_partition: dict[int, list[Message]] = {}
        for opportunity in opportunities[first : first + DECISIONS_PER_POLL]:
            rows = {AD_DECISIONS.name: 1, BIDS.name: len(OUTCOMES)}
            message = Message(opportunity.partition, rows, encode_decision(_decided(opportunity)), [])
            by_partition.setdefault(opportunity.partition, []).append(message)
        polls.append([*by_partition.values()])
    return polls


def _decided(about: Opportunity) -> Decision:
    push = identity.push_id(about.auction_id)
    taken = {name: getattr(about, name) for name in about.__struct_fields__ if name in Decision.__struct_fields__}
    return Decision(
        **taken,
        decided_ms=about.emitted_ms + 90,
        status="won",
        push_id=push,
        ads=(
            WinningAd(
                push_id=push,
                aggregator="aggregator-0",
                bid_id=f"bid-{about.offset}",
                ad_id=f"ad-{about.offset % 500}",
                price_micros=2_500_000,
                currency="USD",
                creative_url="https://cdn.example/c/17.mp4",
                duration_ms=30_000,
            ),
        ),
        outcomes=tuple(_outcome(number, code, about) for number, code in enumerate(OUTCOMES)),
        queue_us=150,
        auction_us=80_000,
    )


def _outcome(number: int, code: Outcome, about: Opportunity) -> AggregatorOutcome:
    name = f"aggregator-{number}"
    if code is Outcome.NOT_SELECTED:
        return AggregatorOutcome(aggregator=name, code=code, called=False, propensity=0.5)
    called = AggregatorOutcome(
        aggregator=name,
        code=code,
        called=True,
        propensity=0.5,
        tmax_ms=120,
        latency_us=30_000 + about.offset % 997,
        queue_us=100,
        first_byte_us=20_000,
        connection_reused=True,
        http_status=200,
        response_bytes=600,
        floor_micros=500_000,
    )
    if code not in _WITH_A_BID:
        return called
    return msgspec.structs.replace(
        called,
        bids=1,
        ads_won=int(code is Outcome.WON),
        bid_id=f"bid-{about.offset}-{number}",
        price_micros=2_500_000 - number,
        currency="USD",
        offered_micros=2_500_000 - number,
        offered_currency="USD",
        ad_id=f"ad-{about.offset % 500}",
        advertiser_domain="brand.example",
    )


if __name__ == "__main__":
    watch = Stopwatch()
    prepare(int(sys.argv[2]), Path(sys.argv[1]))
    tell(watch.effort(int(sys.argv[2])))
