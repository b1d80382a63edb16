"""Write dead letters, from a sink of their own or from one that finds some."""

from __future__ import annotations

import msgspec

from datastreamx.config import Config
from datastreamx.metrics import DEAD_LETTERS
from datastreamx.model.chunk import DeadLetter
from datastreamx.wire.dead_letters import dead_letter_headers
from sinks.kafka.outside import Outside
from sinks.kafka.producer import SettlingProducer

# Brokers refuse a record above 1,048,588 bytes by default. A record just below, plus our headers, would be refused for
# ever and stop the flow: whoever may write to box-events could hold it up.
VALUE_BYTES_MAX = 512 * 1024
KEY_BYTES_MAX = 64 * 1024
HEADER_CUT = "cut_from_bytes"


def fit(letter: DeadLetter) -> tuple[DeadLetter, list[tuple[str, bytes]]]:
    """`letter` with a key and value that any broker takes, and its headers; a cut one says how long the value was."""
    headers = dead_letter_headers(letter)
    key, value = letter.key or b"", letter.value or b""
    if len(key) <= KEY_BYTES_MAX and len(value) <= VALUE_BYTES_MAX:
        return letter, headers
    cut = msgspec.structs.replace(
        letter,
        key=None if letter.key is None else key[:KEY_BYTES_MAX],
        value=None if letter.value is None else value[:VALUE_BYTES_MAX],
    )
    return cut, [*headers, (HEADER_CUT, str(len(value)).encode())]


class DeadLetterWriter:
    """Writes to `topics.dead_letters` and counts by reason.

    Raises on construction:
        MissingTopicError: The topic does not exist.
        RetryableError: No broker answers.
    """

    def __init__(self, config: Config, client_id: str, outside: Outside | None = None) -> None:
        self._topic = config.topics.dead_letters
        self._producer = SettlingProducer(config.kafka, client_id, outside)
        self._producer.require_topic(self._topic)

    def write(self, letter: DeadLetter) -> None:
        """Send; waits only while the local queue is full."""
        fitting, headers = fit(letter)
        # Not with the record's own timestamp: retention would delete the letters of an old record at once.
        self._producer.send(self._topic, key=fitting.key, value=fitting.value, headers=headers)
        DEAD_LETTERS.labels(letter.reason).inc()

    def poll(self) -> None:
        """Serve acknowledgements that have arrived."""
        self._producer.poll()

    def settle(self) -> None:
        """Return when everything is acknowledged."""
        self._producer.settle()

    def close(self) -> None:
        """Settle and leave the brokers."""
        self._producer.close()
