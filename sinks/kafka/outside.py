"""What the Kafka sinks take from outside the configuration, so that tests can replace it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Producer

from datastreamx.clock import Clock, SystemClock


def _do_nothing() -> None:
    """Nobody wants to know that we wait."""


@dataclass(frozen=True)
class Outside:
    """Clock, randomness, sleep and the Kafka client.

    Attributes:
        on_wait: Called several times a second while a sink waits for the brokers, for a heartbeat: waiting is no hang.
        make_producer: Called with librdkafka properties.
        answer_patience_s: How long the brokers may take to answer at the start before `RetryableError`.
    """

    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.Random)
    sleep: Callable[[float], None] = time.sleep
    on_wait: Callable[[], None] = _do_nothing
    make_producer: Callable[[dict[str, Any]], Any] = Producer
    answer_patience_s: float = 10.0
