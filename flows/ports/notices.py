"""Ends of the notices flow."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from bytewax.inputs import Source
from bytewax.outputs import Sink

from datastreamx.clock import SystemClock
from datastreamx.model.chunk import DeadLetter
from datastreamx.model.log import LogBatch, Tick
from flows.ports import Process
from operators.async_map.executor import Executor
from operators.notices.outbox import ARMED_MAX, Reply
from operators.notices.sender import HttpSender
from operators.notices.step import NoticePorts
from sinks.dead_letter.sink import DeadLetterSink
from sinks.kafka.outside import Outside
from sources.kafka.start import StartPosition
from sources.kafka.warehouse import WarehouseSource

GROUP = "datastreamx-notices"

POLL_RECORDS = 500
"""A decision brings several notices, and the source pauses only between polls: this bounds what one poll can add."""


@dataclass(frozen=True)
class NoticesPorts:
    """Where facts and decisions come from, what sends notices, and where those go that were not delivered."""

    log: Source[LogBatch | Tick]
    sending: NoticePorts
    dead_letters: Sink[tuple[str, DeadLetter]]


def live_notices_ports(process: Process) -> NoticesPorts:
    """Kafka and the hosts of the configured aggregators.

    Without state the source begins at the end of the log. What stands there may have been told by a process whose
    recovery store is lost, and nothing is told twice.

    Raises:
        MissingTopicError: A topic to write to does not exist.
        RetryableError: No broker answers.
    """
    config, pulse, clock = process.config, process.pulse, SystemClock()
    # The outboxes bound what is under way. The executor must not: an aggregator that does not answer would take all
    # its turns, which the sender shares out.
    most = ARMED_MAX * config.events.partitions * len(config.aggregators)
    executor: Executor[Reply] = Executor(capacity=most, concurrency=most, clock=clock, name="notices")
    process.resources.callback(executor.close)
    pulse.watch(lambda: executor.is_alive)
    sender = HttpSender(config.aggregators, config.notices)
    executor.on_close(sender.close)
    # A cell keeps no outbox for the partitions of others.
    sending = NoticePorts(executor, sender, clock, partitions=process.place.partitions(config.events.partitions))
    dead_letters = DeadLetterSink(config, Outside(on_wait=pulse.beat))
    dead_letters.connect()
    small = msgspec.structs.replace(config.events, chunk_records=min(POLL_RECORDS, config.events.chunk_records))
    source = WarehouseSource(
        msgspec.structs.replace(config, events=small),
        group=GROUP,
        start=StartPosition("end"),
        may_read=sending.gate.is_open,
        place=process.place,
        pulse=pulse,
        stop=process.stop,
        accept_store=process.accept_store,
    )
    return NoticesPorts(log=source, sending=sending, dead_letters=dead_letters)
