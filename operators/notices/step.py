"""Bytewax shell of the notices."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol, TypeAlias

import bytewax.operators as op
import msgspec
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from datastreamx import metrics
from datastreamx.clock import Clock
from datastreamx.config import Config
from datastreamx.model.chunk import DeadLetter
from datastreamx.model.log import Tick
from operators.async_map.executor import Executor, Job
from operators.decisions.step import DecisionBatch
from operators.impressions.step import ImpressionBatch
from operators.notices.gate import Gate
from operators.notices.notice import Notice, NoticeRules
from operators.notices.outbox import Ended, Outbox, Reply, Result, Terms
from operators.split.step import partition_key

Item: TypeAlias = "DecisionBatch | ImpressionBatch | Tick"

# What an attempt brought is in the snapshot sooner, and fewer notices are unconfirmed after a crash.
_POLL = timedelta(milliseconds=20)
_DRAIN_POLL_S = 0.005

_names = (f"outbox-{number}" for number in itertools.count())


class NoticeSender(Protocol):
    """What makes attempts, on the executor's event loop."""

    async def send(self, notice: Notice) -> Reply:
        """Make one attempt. It ends by itself within bounded time."""

    def stop(self) -> None:
        """Attempts that have not begun end as `UNSENT` from now on; called from the worker's thread."""


@dataclass(frozen=True)
class NoticePorts:
    """What the operator needs from outside.

    Attributes:
        executor: Runs the attempts; outboxes bound how many there are, see `outbox.ARMED_MAX`.
        gate: Tells the source to pause.
        partitions: Kafka partitions of this process, each with an outbox; unset: all.
    """

    executor: Executor[Reply]
    sender: NoticeSender
    clock: Clock
    gate: Gate = field(default_factory=Gate)
    partitions: Sequence[int] | None = None


class NoticesLogic(StatefulBatchLogic[Item, DeadLetter, bytes]):
    """The outbox of one partition, and its attempts under way."""

    def __init__(self, ports: NoticePorts, rules: NoticeRules, config: Config, snapshot: bytes | None) -> None:
        self._ports = ports
        self._rules = rules
        self._topic = config.topics.events
        self._outbox = Outbox(Terms(config.notices.attempts, config.notices.retry_interval_ms), snapshot)
        self._name = next(_names)
        self._under_way: dict[str, bytes] = {}

    def on_batch(self, values: list[Item]) -> tuple[Iterable[DeadLetter], bool]:
        """Take new notices over; on a tick send what the last snapshot has armed."""
        ended = self._settled()
        for value in values:
            match value:
                case DecisionBatch():
                    for decision in value.decisions:
                        self._take_over(self._rules.of_decision(decision))
                case ImpressionBatch():
                    found = map(self._rules.of_impression, value.impressions)
                    self._take_over(notice for notice in found if notice is not None)
                case Tick():
                    self._send(self._outbox.tick())
        self._ports.gate.report(self._name, is_crowded=self._outbox.is_crowded)
        return self._told(ended), StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[Iterable[DeadLetter], bool]:
        """Take note of attempts that have ended."""
        return self._told(self._settled()), StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[DeadLetter], bool]:
        """Let attempts under way end, begin none, and leave the rest to the next process."""
        self._ports.sender.stop()
        ended = self._settled()
        while self._under_way:
            time.sleep(_DRAIN_POLL_S)
            ended += self._settled()
        self._outbox.close()
        self._ports.gate.report(self._name, is_crowded=False)
        return self._told(ended), StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        """Soon while there is something to hear of. Retries need no timer: they go out on ticks."""
        if self._outbox.has_untold:
            return datetime.now(UTC)
        return datetime.now(UTC) + _POLL if self._under_way else None

    def snapshot(self) -> bytes:
        """Versioned bytes of the outbox; arms what the next tick sends."""
        return self._outbox.snapshot(self._ports.clock.now_ms())

    def _take_over(self, notices: Iterable[Notice]) -> None:
        for notice in notices:
            objection = self._rules.objection(notice)
            self._outbox.add(notice, None if objection is None else Reply(Result.FORBIDDEN, objection))

    def _send(self, released: Sequence[tuple[bytes, Notice]]) -> None:
        jobs = []
        for key, notice in released:
            objection = self._rules.objection(notice)
            if objection is not None:
                # It was written by an earlier configuration, which allowed it.
                attempt = partial(_forbidden, objection)
            else:
                attempt = partial(self._ports.sender.send, notice)
            job_id = key.hex()
            self._under_way[job_id] = key
            jobs.append(Job(job_id, attempt, None, _unheard_of, _failed))
        self._ports.executor.submit(self._name, jobs)

    def _settled(self) -> list[Ended]:
        now_ms = self._ports.clock.now_ms()
        ended = self._outbox.take_untold(now_ms) if self._outbox.has_untold else []
        if self._under_way:
            for done in self._ports.executor.collect(self._name):
                one = self._outbox.attempted(self._under_way.pop(done.id), done.output, now_ms)
                if one is not None:
                    ended.append(one)
        return ended

    def _told(self, ended: list[Ended]) -> list[DeadLetter]:
        for one in ended:
            metrics.NOTICES.labels(one.notice.aggregator, one.notice.event, one.result.value).inc()
        return [dead_letter(one, self._topic) for one in ended if one.result is not Result.DELIVERED]


async def _forbidden(objection: str) -> Reply:
    return Reply(Result.FORBIDDEN, objection)


def _unheard_of() -> Reply:
    return Reply(Result.UNCONFIRMED, "the attempt did not end in time")


def _failed(error: Exception) -> Reply:
    return Reply(Result.UNCONFIRMED, f"the attempt failed by a fault of the program: {type(error).__name__}")


def dead_letter(ended: Ended, topic: str) -> DeadLetter:
    """Dead letter of a notice that was not delivered: JSON of the notice, traced to the event that it stems from.

    One event may cause several notices, so the key of the letter says which one it is.

    Args:
        ended: How the notice ended.
        topic: Of the box events.
    """
    notice = ended.notice
    return DeadLetter(
        reason=f"notice_{ended.result.value}",
        detail=f"{notice.event} notice to {notice.aggregator}: {ended.detail}",
        topic=topic,
        partition=notice.partition,
        offset=notice.offset,
        timestamp_ms=notice.arose_ms,
        key=notice.id.encode(),
        value=msgspec.json.encode(
            {**msgspec.structs.asdict(notice), "result": ended.result.value, "attempts": ended.attempts}
        ),
    )


@operator
def send_notices(  # noqa: PLR0913, PLR0917  the streams that notices follow from
    step_id: str,
    decisions: KeyedStream[DecisionBatch],
    impressions: KeyedStream[ImpressionBatch],
    ticks: Stream[Tick],
    config: Config,
    ports: NoticePorts,
) -> KeyedStream[DeadLetter]:
    """Tell aggregators what became of their bids, each notice at most once.

    Args:
        step_id: Unique id of the step; notices that are owed are stored under it.
        decisions: Decisions, each auction once, keyed by partition: win and loss notices.
        impressions: Impressions with billing, keyed by the same partition: billing notices.
        ticks: Straight from a source; one becomes one per partition.
        config: Aggregators and limits.
        ports: What sends.

    Returns:
        Notices that were not delivered, keyed by partition.
    """
    rules = NoticeRules(config.aggregators)
    owned = range(config.events.partitions) if ports.partitions is None else ports.partitions
    keys = [partition_key(partition) for partition in owned]
    for_all = op.flat_map("ticks", ticks, lambda tick: [(key, tick) for key in keys])
    merged: KeyedStream[Item] = op.merge("merged", decisions, impressions, for_all)
    return op.stateful_batch("outbox", merged, lambda snapshot: NoticesLogic(ports, rules, config, snapshot))
