"""What the sources take from outside the configuration, so that tests can replace it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer

from datastreamx.clock import Clock, SystemClock


@dataclass(frozen=True)
class Outside:
    """Clock, randomness, sleep and the Kafka client.

    Attributes:
        make_consumer: Called with librdkafka properties.
        answer_patience_s: How long one question to the brokers is repeated before `RetryableError`.
        silence_patience_s: How long a partition that has to be read to its end may be silent before `RetryableError`.
    """

    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.Random)
    sleep: Callable[[float], None] = time.sleep
    make_consumer: Callable[[dict[str, Any]], Any] = Consumer
    answer_patience_s: float = 10.0
    silence_patience_s: float = 20.0
