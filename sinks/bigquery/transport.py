"""What the loader needs from BigQuery's Storage Write API, as protocols, so that it can be scripted or measured alone.

An implementation that answers every request with `Reply(ReplyKind.OK)` is enough to measure the loader by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol

import pyarrow as pa


class ReplyKind(Enum):
    """What an answer means to the caller. Every status of the API falls into exactly one kind."""

    OK = auto()
    ALREADY_EXISTS = auto()
    """Offset written or flushed before."""
    OUT_OF_RANGE = auto()
    """Offset beyond the end of the stream."""
    BAD_ROWS = auto()
    """Nothing was written, because of the rows named in the reply."""
    NOT_FOUND = auto()
    """No such stream or table (a stream expires after days, a new table takes a while to be known everywhere)."""
    RETRY = auto()
    """BigQuery is unwell; the same call will succeed later."""
    DOUBTFUL = auto()
    """Heals by itself only right after a change of permissions or schema; otherwise a human has to act."""
    FATAL = auto()
    """Can never succeed."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """One row that BigQuery refused: its index in the request and why."""

    index: int
    message: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer to one call.

    Attributes:
        detail: BigQuery's own words.
        offset: Append only: where the first row landed, if BigQuery said so.
        bad_rows: Only with `BAD_ROWS`.
        ends_connection: Append only: no further reply will come from this connection.
    """

    kind: ReplyKind
    detail: str = ""
    offset: int | None = None
    bad_rows: tuple[BadRow, ...] = ()
    ends_connection: bool = False


class AppendRequest(NamedTuple):
    """Rows for one append.

    Attributes:
        offset: Where the first row must land.
        body: One record batch in Arrow's IPC format, without schema.
    """

    offset: int
    body: bytes


class Connection(Protocol):
    """One AppendRows connection. Replies come in the order of requests."""

    def send(self, request: AppendRequest) -> None:
        """Hand over a request; never blocks, never fails: a dead connection shows in `receive`."""

    def receive(self, timeout_s: float) -> Reply | None:
        """Next reply, waiting up to `timeout_s`; `None` if there is none yet. 0 does not wait."""

    def close(self) -> None:
        """Abandon the connection. What was sent and not answered may or may not have been written."""


class PendingCall(Protocol):
    """A call that is under way."""

    def poll(self) -> Reply | None:
        """Its outcome, or `None` while it is under way. Never blocks; every call ends by its own timeout."""


class Transport(Protocol):
    """The four calls behind a BUFFERED stream. Nothing in here retries: the loader owns retries and back-off."""

    def create_stream(self, table: str) -> str | Reply:
        """Create a BUFFERED stream for a table: its name, or why not. Blocks up to a few seconds."""

    def connect(self, stream: str, schema: pa.Schema) -> Connection:
        """Open an AppendRows connection for one stream; does not wait for the server."""

    def flush(self, stream: str, offset: int) -> PendingCall:
        """Begin to make all rows up to and including `offset` visible."""

    def finalize(self, stream: str) -> None:
        """Tell BigQuery that the stream is done. Best effort and not waited for: streams also expire."""

    def close(self) -> None:
        """Release the network connection; calls under way are abandoned."""
