"""Tells the source to pause while notices arrive faster than they are sent, as after an outage."""

from __future__ import annotations


class Gate:
    """Open unless some outbox is crowded. Outboxes and sources may be on different threads; each call is atomic."""

    def __init__(self) -> None:
        self._crowded: set[str] = set()

    def report(self, outbox: str, *, is_crowded: bool) -> None:
        """Note the state of one outbox."""
        if is_crowded:
            self._crowded.add(outbox)
        else:
            self._crowded.discard(outbox)

    def is_open(self) -> bool:
        """Whether the source may read on."""
        return not self._crowded
