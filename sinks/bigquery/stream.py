"""The append protocol of one BUFFERED stream, without any I/O.

Rules, after the comments in `google/cloud/bigquery/storage/v1/storage.proto`:

- An append lands exactly at its offset or not at all. ALREADY_EXISTS means that rows stand there.
- Replies come in the order of requests.
- A request refused for bad rows writes nothing, so all later requests on that connection are refused as well.

After a lost connection the same bytes are sent again at the same offsets, and whichever copy arrives first counts. That
is why the offset of a request may only change while no older copy of it can still be on its way; otherwise the rest has
to go to a new stream (`must_roll`), and the old stream's tail stays unflushed, hence invisible, for ever.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from datastreamx.errors import CrashError
from sinks.bigquery.rows import Block, RefusedRow, encode, without
from sinks.bigquery.transport import AppendRequest, Reply, ReplyKind


@dataclass(slots=True)
class _Entry:
    offset: int
    block: Block
    sendings: int = 0


class AppendStream:
    """Offsets and unacknowledged requests of one stream; see the module for the protocol."""

    def __init__(self) -> None:
        # In offset order; the first `_in_flight` were sent on the present connection.
        self._unacked: deque[_Entry] = deque()
        self._in_flight = 0
        self._end = 0
        self._acked_end = 0
        # Below this offset a copy from a lost connection may still arrive.
        self._stray_end = 0
        # Replies to requests behind a refused one, still to come and to be ignored.
        self._void_replies = 0
        self._must_roll = False

    @property
    def acked_rows(self) -> int:
        """Rows that BigQuery has acknowledged; all of them are in the stream."""
        return self._acked_end

    @property
    def unacked_requests(self) -> int:
        """Requests that wait for their acknowledgement, sent or not."""
        return len(self._unacked)

    @property
    def in_flight(self) -> int:
        """Replies that the present connection still owes."""
        return self._in_flight + self._void_replies

    @property
    def must_roll(self) -> bool:
        """Whether the unacknowledged requests have to move to a new stream."""
        return self._must_roll

    @property
    def is_draining(self) -> bool:
        """Whether replies to void requests are still to come."""
        return self._void_replies > 0

    def add(self, block: Block) -> None:
        """Queue rows behind everything that was queued before."""
        self._unacked.append(_Entry(self._end, block))
        self._end += block.rows.num_rows

    def take_sendable(self) -> list[AppendRequest]:
        """Requests to send now on the present connection, in order; they count as sent."""
        if self._void_replies or self._must_roll:
            return []
        requests = []
        for index in range(self._in_flight, len(self._unacked)):
            entry = self._unacked[index]
            entry.sendings += 1
            requests.append(AppendRequest(entry.offset, entry.block.body))
        self._in_flight = len(self._unacked)
        return requests

    def on_reply(self, reply: Reply) -> list[RefusedRow]:
        """Take the reply to the oldest request in flight; returns the rows that BigQuery refused.

        Raises:
            CrashError: The stream does not hold what it must hold.
        """
        if self._void_replies:
            self._on_void_reply(reply)
            return []
        if not self._in_flight:
            raise CrashError(f"BigQuery answered {reply.kind.name} although nothing was asked: {reply.detail}")
        first = self._unacked[0]
        match reply.kind:
            case ReplyKind.OK:
                if reply.offset is not None and reply.offset != first.offset:
                    raise CrashError(f"BigQuery wrote rows at offset {reply.offset} that were sent for {first.offset}")
                self._ack(first)
            case ReplyKind.ALREADY_EXISTS:
                if first.sendings == 1:
                    raise CrashError(
                        f"Rows stand at offset {first.offset} that this process never wrote: another process appends "
                        f"to the same stream. Stop it; streams are never shared. BigQuery said: {reply.detail}"
                    )
                self._ack(first)
            case ReplyKind.BAD_ROWS:
                return self._drop_bad_rows(first, reply)
            case ReplyKind.OUT_OF_RANGE:
                raise CrashError(
                    f"The stream ends before offset {first.offset}, although BigQuery had acknowledged all rows below "
                    "it: rows were lost on its side. Restart the flow; it resumes from its last snapshot with a new "
                    f"stream. BigQuery said: {reply.detail}"
                )
            case _:
                raise AssertionError(f"{reply.kind} is the caller's to handle")
        return []

    def on_connection_lost(self) -> None:
        """Everything unacknowledged is to be sent again; no reply of the old connection counts any more."""
        if self._void_replies:
            self._must_roll = True
        elif self._in_flight:
            last = self._unacked[self._in_flight - 1]
            self._stray_end = max(self._stray_end, last.offset + last.block.rows.num_rows)
        self._in_flight = 0
        self._void_replies = 0

    def roll(self) -> AppendStream:
        """New stream that takes over all unacknowledged rows; this one ends at `acked_rows`."""
        successor = AppendStream()
        for entry in self._unacked:
            successor.add(entry.block)
        self._unacked.clear()
        self._end = self._acked_end
        self._in_flight = 0
        return successor

    def _ack(self, first: _Entry) -> None:
        self._unacked.popleft()
        self._in_flight -= 1
        self._acked_end = first.offset + first.block.rows.num_rows

    def _drop_bad_rows(self, first: _Entry, reply: Reply) -> list[RefusedRow]:
        rows = first.block.rows
        bad = {row.index: row.message for row in reply.bad_rows}
        if not bad or not all(0 <= index < rows.num_rows for index in bad):
            raise CrashError(f"BigQuery refused rows without a usable list of which: {reply}")
        if self._stray_end > first.offset:
            self._must_roll = True
        good = without(rows, bad)
        if good.num_rows:
            first.block = Block(good, encode(good))
        else:
            self._unacked.popleft()
        self._void_replies = self._in_flight - 1
        self._in_flight = 0
        if not self._void_replies:
            self._renumber()
        return [RefusedRow(rows.slice(index, 1), "bigquery_row", bad[index]) for index in sorted(bad)]

    def _on_void_reply(self, reply: Reply) -> None:
        if reply.kind in {ReplyKind.OK, ReplyKind.ALREADY_EXISTS}:
            raise CrashError(
                f"BigQuery answered {reply.kind.name} to a request behind one that it had refused: the offsets of this "
                "stream cannot be trusted. Restart the flow; it resumes from its last snapshot with a new stream"
            )
        self._void_replies -= 1
        if not self._void_replies:
            self._renumber()

    def _renumber(self) -> None:
        """Close the gap that bad rows left; every request behind it is known not to have been written."""
        self._end = self._acked_end
        for entry in self._unacked:
            entry.offset = self._end
            entry.sendings = 0
            self._end += entry.block.rows.num_rows
