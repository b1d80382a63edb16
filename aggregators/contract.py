"""What an adapter is: two pure functions. The core owns HTTP, deadlines, validation and money."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from datastreamx.model.auction import Bid, BidRequest, Outcome


class HttpCall(msgspec.Struct, frozen=True, kw_only=True):
    """One request to an aggregator.

    Attributes:
        url: Absolute; its host is the configured one, never one from a reply.
        headers: Beyond the configured ones, which the core adds.
        body: Request body, `None` for GET.
    """

    method: str
    url: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None


class HttpReply(msgspec.Struct, frozen=True, kw_only=True):
    """What came back: headers with lower-case names, body decoded and within the size limit."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""


class ReplyError(Exception):
    """The reply is not what the dialect promises.

    Attributes:
        code: The outcome that the aggregator gets in this auction.
        detail: What is wrong, for a human.
    """

    def __init__(self, code: Outcome, detail: str) -> None:
        super().__init__(f"{code.label}: {detail}")
        self.code = code
        self.detail = detail


class Adapter(Protocol):
    """Translates between an opportunity and one aggregator's dialect. Pure: no I/O, no clock, no randomness."""

    def make_requests(self, request: BidRequest) -> list[HttpCall]:
        """Calls to make for an opportunity; usually one, none if this aggregator cannot serve it."""

    def make_bids(self, call: HttpCall, reply: HttpReply) -> list[Bid]:
        """Bids in a reply to `call`; empty for an honest no-bid.

        Raises:
            ReplyError: The reply breaks the dialect. Any other exception counts as the same with code ERROR.
        """
