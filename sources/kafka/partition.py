"""What a reader knows of one partition."""

from __future__ import annotations

from itertools import takewhile

from confluent_kafka import Message


class PartitionState:
    """Position and end of one partition, and what was fetched but not handed on.

    Args:
        first_offset: Where reading begins.
        high: End of the partition as the broker told it then; may be too low.
        until_ms: The first record of this Kafka timestamp or a later one ends the partition; unset: none does.

    Attributes:
        fetch_offset: Next that the client gives.
        newest_ms: Kafka timestamp of the last record handed on; 0 before the first.
        records: Fetched since the counts were published.
        bytes: Likewise.
        is_paused: The client does not fetch, because enough is held.
        is_over: A record of `until_ms` was met. Nothing more is fetched.
    """

    __slots__ = (
        "_end_offset",
        "_first_offset",
        "_held",
        "_high",
        "_until_ms",
        "bytes",
        "fetch_offset",
        "is_over",
        "is_paused",
        "newest_ms",
        "records",
    )

    def __init__(self, first_offset: int, high: int, until_ms: int | None = None) -> None:
        self._first_offset = first_offset
        self._high = high
        self._until_ms = until_ms
        self._end_offset = -1
        self._held: list[Message] = []
        self.fetch_offset = first_offset
        self.newest_ms = 0
        self.records = 0
        self.bytes = 0
        self.is_paused = False
        self.is_over = False

    @property
    def next_offset(self) -> int:
        """Next to hand on."""
        return _offset(self._held[0]) if self._held else self.fetch_offset

    @property
    def has_ended(self) -> bool:
        """Whether all was handed on, and nothing came since the last end-of-partition event, or ever will.

        The event alone does not do: right after its leader moved, a partition may tell of an end below records that
        were acknowledged (see `TailReader`).
        """
        is_at_end = self.fetch_offset == self._end_offset and self.fetch_offset >= self._high
        return not self._held and (self.is_over or is_at_end)

    @property
    def is_holding(self) -> bool:
        """Whether something was fetched and not handed on."""
        return bool(self._held)

    @property
    def held_bytes(self) -> int:
        """Size of that."""
        return sum(map(len, self._held))

    @property
    def reach_ms(self) -> int | None:
        """Time before which no more records are to be expected; `None` if there are none.

        The time of the next record, as far as it is known, else that of the last one.
        """
        if self._held:
            return _time_ms(self._held[0])
        return None if self.has_ended else self.newest_ms

    @property
    def progress(self) -> tuple[int, int]:
        """Records done, and in all; the latter is a lower bound."""
        known = self.fetch_offset if self.is_over else max(self._high, self._end_offset, self.fetch_offset)
        return self.next_offset - self._first_offset, known - self._first_offset

    def ended(self, end_offset: int) -> None:
        """Note an end-of-partition event. The end may lie behind markers that are no records."""
        self._end_offset = end_offset
        if not self.is_over:
            self.fetch_offset = max(self.fetch_offset, end_offset)

    def pause(self) -> None:
        """Note that the client does not fetch: what comes is not seen, so the end is unknown until it is told again."""
        self.is_paused = True
        self._end_offset = -1

    def hold(self, messages: list[Message]) -> None:
        """Take what was fetched, or the part of it that lies before `until_ms`."""
        if self.is_over:
            return
        end = self._first_beyond(messages)
        if end is None:
            # The end event of the same poll has been dealt with, and may stand further on.
            self.fetch_offset = max(self.fetch_offset, _offset(messages[-1]) + 1)
        else:
            self.is_over = True
            self.fetch_offset = _offset(messages[end])
            messages = messages[:end]
        self.records += len(messages)
        self.bytes += sum(map(len, messages))
        # Mostly nothing is held, and records are many.
        self._held = self._held + messages if self._held else messages

    def release(self, horizon_ms: int | None) -> list[Message]:
        """Hand on what is held, as far as it is not younger than `horizon_ms`."""
        released = self._held
        if horizon_ms is not None:
            released = [*takewhile(lambda message: _time_ms(message) <= horizon_ms, released)]
        if released:
            self._held = self._held[len(released) :]
            # Not the largest: a record from the future, of a clock that was wrong for a moment, would stay it for long.
            self.newest_ms = _time_ms(released[-1])
        return released

    def _first_beyond(self, messages: list[Message]) -> int | None:
        until_ms = self._until_ms
        if until_ms is None:
            return None
        return next((number for number, message in enumerate(messages) if _time_ms(message) >= until_ms), None)


def _offset(message: Message) -> int:
    return int(message.offset() or 0)


def _time_ms(message: Message) -> int:
    return message.timestamp()[1]
