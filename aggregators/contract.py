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
    """What came back: headers, to be asked for by lower-case names; body decoded and within the size limit."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""


class ReplyError(Exception):
    """The reply, or one bid in it, is not what the dialect promises.

    Attributes:
        code: The outcome that the aggregator, or the bid, gets in this auction.
        detail: What is wrong, for a human.
    """

    def __init__(self, code: Outcome, detail: str) -> None:
        super().__init__(f"{code.label}: {detail}")
        self.code = code
        self.detail = detail


class Answer(msgspec.Struct, frozen=True):
    """What a reply says.

    Attributes:
        bids: Usable bids in the order of the reply; empty for an honest no-bid.
        no_bid_reason: OpenRTB `nbr`, if the aggregator gave a reason for offering nothing.
        refused: Flawed bids beside usable ones, one error each. If all are flawed, the first error is raised instead.
    """

    bids: tuple[Bid, ...] = ()
    no_bid_reason: int | None = None
    refused: tuple[ReplyError, ...] = ()


class Adapter(Protocol):
    """Translates between an opportunity and one aggregator's dialect. Pure: no I/O, no clock, no randomness."""

    def make_requests(self, request: BidRequest) -> list[HttpCall]:
        """Calls to make for an opportunity; usually one, none if this aggregator cannot serve it."""

    def make_bids(self, call: HttpCall, reply: HttpReply) -> Answer:
        """What the reply to `call` offers.

        Raises:
            ReplyError: The reply breaks the dialect, or none of its bids is usable. Any other exception counts as the
                same with code ERROR.
        """
