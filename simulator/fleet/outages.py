"""Say that the broker is away once in a while, instead of librdkafka's line for every attempt to connect."""

from __future__ import annotations

from confluent_kafka import KafkaError

from datastreamx.clock import Clock
from datastreamx.kafka import Properties
from datastreamx.log import get_logger

QUIET_S = 5.0

_LOG = get_logger("fleet")


class OutageLog:
    """Shared by all clients of a process; errors are expected, because clients go on by themselves."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_s = clock.monotonic_s()

    def properties(self) -> Properties:
        """Client properties that send errors here and silence librdkafka's own log."""
        return {"log_level": 0, "error_cb": self.report}

    def report(self, error: KafkaError) -> None:
        """Log `error`, unless another was logged a moment ago."""
        if self._clock.monotonic_s() >= self._next_s:
            self._next_s = self._clock.monotonic_s() + QUIET_S
            _LOG.warning("broker_unavailable", error=str(error))
