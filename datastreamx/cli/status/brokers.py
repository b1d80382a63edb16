"""Offsets and newest records, asked from the brokers. Commits nothing, joins no group."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from datastreamx.cli.status.letters import read_reasons
from datastreamx.cli.status.report import KafkaStatus, Lag, LastDecision
from datastreamx.clock import Clock
from datastreamx.config import Config
from datastreamx.errors import CrashError, RetryableError
from datastreamx.kafka import consumer_properties
from datastreamx.model.auction import Decision
from datastreamx.wire.decisions import decode_decision
from sources.kafka.codes import END_OF_PARTITION

PartitionId = tuple[str, int]

ANSWER_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 3.0
_POLL_S = 0.1
_POLL_RECORDS = 500


@dataclass(slots=True)
class _End:
    """What is known of the end of a partition."""

    low: int
    offset: int
    is_exact: bool = False
    newest: Message | None = None


def flow_groups(config: Config) -> dict[str, str]:
    """Flows that this configuration needs, and the groups under which their sources display their offsets."""
    names = ["ads", "warehouse"]
    if any(aggregator.notices for aggregator in config.aggregators):
        names.append("notices")
    return {name: group_of(name) for name in names}


def group_of(flow: str) -> str:
    """Group under which the source of a flow displays its offsets."""
    return f"datastreamx-{flow}"


def ask_brokers(config: Config, clock: Clock) -> KafkaStatus:
    """Lags of all flows and the newest records; trouble becomes `KafkaStatus.problem`.

    End offsets are found by reading from the last record to the end of each partition: the local broker answers too
    low ones. What cannot be read within `READ_TIMEOUT_S` counts as a lower bound.
    """
    topics = config.topics
    try:
        consumer = _consumer(config, "datastreamx-status")
        try:
            partitions = _partitions(consumer, config)
            # Progress before ends: a flow that goes on meanwhile would else seem to be ahead of its log.
            progress = {
                flow: _committed(config, group, [one for one in partitions if one[0] in _read_by(flow, config)])
                for flow, group in flow_groups(config).items()
            }
            ends = _ends(consumer, partitions, clock)
            held = {one: (end.low, end.offset) for one, end in ends.items() if one[0] == topics.dead_letters}
            reasons = read_reasons(consumer, held, clock)
        finally:
            consumer.close()
        lags = {flow: _lags(committed, ends) for flow, committed in progress.items()}
        last_decision = _last_decision(_of(ends, topics.decisions))
    except CrashError as error:
        return KafkaStatus(address=config.kafka.bootstrap, problem=str(error))
    except (KafkaException, RetryableError) as error:
        return KafkaStatus(address=config.kafka.bootstrap, problem=_reason(error), is_unreachable=True)
    return KafkaStatus(
        address=config.kafka.bootstrap,
        lags=lags,
        newest_event_ms=max((_time_ms(end) for end in _of(ends, topics.events)), default=None) or None,
        last_decision=last_decision,
        dead_letters=sum(end.offset - end.low for end in _of(ends, topics.dead_letters)),
        dead_letter_reasons=reasons,
    )


def _consumer(config: Config, group: str) -> Consumer:
    # librdkafka would write connection errors to stderr, besides ours.
    return Consumer(
        {
            **consumer_properties(config.kafka, "datastreamx-status", group),
            "log_level": 0,
            "error_cb": lambda _error: None,
            "queued.max.messages.kbytes": 8_192,
        }
    )


def _partitions(consumer: Consumer, config: Config) -> list[PartitionId]:
    found = consumer.list_topics(timeout=ANSWER_TIMEOUT_S).topics
    topics = config.topics
    wanted = (topics.events, topics.decisions, topics.facts, topics.dead_letters)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise CrashError(f"no topic {', no topic '.join(missing)}: create them with `datastreamx apply`")
    return [(name, number) for name in wanted for number in sorted(found[name].partitions)]


def _ends(consumer: Consumer, partitions: list[PartitionId], clock: Clock) -> dict[PartitionId, _End]:
    answer_by_s = clock.monotonic_s() + ANSWER_TIMEOUT_S
    ends = {one: _watermarks(consumer, one, answer_by_s, clock) for one in partitions}
    # From the record before the end: it is the newest one, and the local broker never answers beyond its log.
    starts = [TopicPartition(*one, max(end.low, end.offset - 1)) for one, end in ends.items()]
    consumer.assign(starts)
    give_up_s = clock.monotonic_s() + READ_TIMEOUT_S
    while clock.monotonic_s() < give_up_s and not all(end.is_exact for end in ends.values()):
        messages = consumer.consume(1, _POLL_S)
        for message in [*messages, *consumer.consume(_POLL_RECORDS, 0)]:
            _note(ends[str(message.topic()), int(message.partition() or 0)], message)
    return ends


def _watermarks(consumer: Consumer, partition: PartitionId, answer_by_s: float, clock: Clock) -> _End:
    """What the broker says, asked again while a partition that was just made, or moved, has no leader."""
    while True:
        try:
            # The stubs forget the `None` of a time-out.
            marks: Any = consumer.get_watermark_offsets(TopicPartition(*partition), timeout=ANSWER_TIMEOUT_S)
        except KafkaException:
            if clock.monotonic_s() >= answer_by_s:
                raise
            time.sleep(_POLL_S)
            continue
        if marks is None:
            topic, number = partition
            raise RetryableError(f"nothing about the offsets of {topic}[{number}] within {ANSWER_TIMEOUT_S:g} s")
        return _End(*marks)


def _note(end: _End, message: Message) -> None:
    error, offset = message.error(), int(message.offset() or 0)
    if error is None:
        end.newest = message
        end.offset = max(end.offset, offset + 1)
    elif error.code() == END_OF_PARTITION:
        # Right after a leader moved an end may be told below records that were acknowledged (KIP-207).
        end.is_exact = offset >= end.offset
        end.offset = max(end.offset, offset)


def _read_by(flow: str, config: Config) -> set[str]:
    topics = config.topics
    return {topics.events} if flow == "ads" else {topics.facts, topics.decisions}


def _committed(config: Config, group: str, partitions: list[PartitionId]) -> dict[PartitionId, int | None]:
    """Next offset that a flow reads, as it showed it last."""
    consumer = _consumer(config, group)
    try:
        answer = consumer.committed([TopicPartition(*one) for one in partitions], timeout=ANSWER_TIMEOUT_S)
    finally:
        consumer.close()
    committed: dict[PartitionId, int | None] = {}
    for one in answer:
        if one.error is not None:
            raise KafkaException(one.error)
        committed[one.topic, one.partition] = one.offset if one.offset >= 0 else None
    return committed


def _lags(committed: dict[PartitionId, int | None], ends: dict[PartitionId, _End]) -> list[Lag]:
    return [
        Lag(
            topic=topic,
            partition=partition,
            committed=offset,
            end=ends[topic, partition].offset,
            is_end_exact=ends[topic, partition].is_exact,
        )
        for (topic, partition), offset in committed.items()
    ]


def _of(ends: dict[PartitionId, _End], topic: str) -> list[_End]:
    return [end for (name, _), end in ends.items() if name == topic]


def _time_ms(end: _End) -> int:
    return 0 if end.newest is None else end.newest.timestamp()[1]


def _last_decision(ends: list[_End]) -> LastDecision | None:
    decisions: list[Decision] = [decode_decision(end.newest.value() or b"") for end in ends if end.newest is not None]
    if not decisions:
        return None
    last = max(decisions, key=lambda decision: decision.decided_ms)
    first = last.ads[0] if last.ads else None
    return LastDecision(
        auction_id=last.auction_id,
        decided_ms=last.decided_ms,
        status=last.status,
        channel_id=last.channel_id,
        ads=len(last.ads),
        aggregator=first.aggregator if first else None,
        price_micros=sum(ad.price_micros for ad in last.ads) if first else None,
        currency=first.currency if first else None,
    )


def _reason(error: Exception) -> str:
    text = error.args[0].str() if isinstance(error, KafkaException) else str(error)
    return f"no answer ({text}); `datastreamx doctor` tells more"
