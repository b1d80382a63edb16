"""Broker errors that are waited out: counted each time, logged once per change."""

from __future__ import annotations

from confluent_kafka import KafkaError

from datastreamx.log import get_logger
from datastreamx.metrics import SOURCE_ERRORS
from sources.kafka.codes import ALL_BROKERS_DOWN

_log = get_logger("source")

ANY_TOPIC = "all"
"""Topic label of errors that concern a broker and not one topic."""


class BrokerHealth:
    """Whether the brokers answer, as far as one client knows.

    librdkafka reconnects by itself, with jittered back-off; nothing here has to.

    Attributes:
        bootstrap: Where the brokers are.
        last_error: Text of the latest error, for messages that have to say why.
    """

    def __init__(self, bootstrap: str) -> None:
        self.last_error: str | None = None
        self.bootstrap = bootstrap
        self._is_down = False

    def failed(self, error: KafkaError, topic: str = ANY_TOPIC) -> None:
        """Note an error. Also serves as librdkafka's `error_cb`."""
        # That all brokers are down follows from an error that said why.
        if self.last_error is None or error.code() != ALL_BROKERS_DOWN:
            self.last_error = error.str()
        self._note(error, topic)

    def did_not_answer(self, error: KafkaError) -> None:
        """Note that a question was not answered; `error_cb` may have said why, and then knows better."""
        self.last_error = self.last_error or error.str()
        self._note(error, ANY_TOPIC)

    def answered(self) -> None:
        """Note that records or an end of partition arrived."""
        if self._is_down:
            self._is_down = False
            _log.info("broker.well_again", bootstrap=self.bootstrap)

    def _note(self, error: KafkaError, topic: str) -> None:
        SOURCE_ERRORS.labels(topic, error.name()).inc()
        if not self._is_down:
            self._is_down = True
            _log.warning("broker.unwell", bootstrap=self.bootstrap, topic=topic, reason=error.name(), error=str(error))
