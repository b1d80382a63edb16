"""What a test of an aggregator has found. Pure values; all texts in them are fit to be printed."""

from __future__ import annotations

from typing import Literal

import msgspec

from datastreamx.config import NoticeEvent

MAX_BODY_CHARS = 32_768

Trouble = Literal["name", "refused", "untrusted", "tls", "closed", "other"]
"""Why there was no exchange: the name does not resolve, nobody listens, the certificate is not trusted, the handshake
fails, or the connection ended before the reply did."""


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all parts."""


class CaseFailure(_Told, frozen=True, kw_only=True):
    """One case, or the `folder` as a whole, and what it did not find, with diffs."""

    case: str
    problems: list[str]


class CasesTold(_Told, frozen=True, kw_only=True):
    """Result of the JSON cases of a dialect."""

    dialect: str
    total: int
    passed: int
    failures: list[CaseFailure]


class RequestTold(_Told, frozen=True, kw_only=True):
    """What was sent; what may be a secret is `***`."""

    method: str
    url: str
    headers: dict[str, str]
    body: str | None


class ReplyTold(_Told, frozen=True, kw_only=True):
    """What came back.

    Attributes:
        body_bytes: Size, decoded.
        body: Its text, cut off at `MAX_BODY_CHARS`.
    """

    status: int
    headers: dict[str, str]
    body_bytes: int
    body: str


class ExchangeTold(_Told, frozen=True, kw_only=True):
    """One request and its reply, if there was a whole one."""

    request: RequestTold
    reply: ReplyTold | None


class PhasesTold(_Told, frozen=True, kw_only=True):
    """Where the time went, microseconds; `None` is a phase that there was not, or that did not end."""

    dns_us: int | None
    connect_us: int | None
    first_byte_us: int | None
    total_us: int
    connection_reused: bool


class NoticeTold(_Told, frozen=True, kw_only=True):
    """An address at which the aggregator wants to hear how its bid ended. Nothing was sent there.

    Attributes:
        wanted: Whether `aggregators.NAME.notices` has the event.
        objection: Why nothing may be sent there, whatever is wanted.
    """

    event: NoticeEvent
    url: str
    wanted: bool
    objection: str | None


class BidTold(_Told, frozen=True, kw_only=True):
    """One bid as the adapter read it, and as the auction judges it.

    Attributes:
        can_win: Whether the auction accepts it.
        code: Why not, as an outcome's label.
        price_micros: In the auction's currency; `None` if it could not be converted.
        offered_micros: As offered, in `offered_currency`.
    """

    bid_id: str
    can_win: bool
    code: str | None
    detail: str | None
    price_micros: int | None
    offered_micros: int
    offered_currency: str
    rate_id: str | None
    ad_id: str
    creative_url: str | None
    duration_ms: int | None
    advertiser_domain: str | None
    notices: list[NoticeTold]


class FlawedTold(_Told, frozen=True, kw_only=True):
    """A bid that the adapter could not read, or refused."""

    code: str
    detail: str


class ProbeTold(_Told, frozen=True, kw_only=True):
    """One request to a configured aggregator, and what became of it.

    Attributes:
        marked: Whether the request says that it is a test; not every dialect can.
        timeout_ms: How long an auction would have waited.
        outcome: Label of the outcome code that it would have in an auction without other aggregators.
        answered_late: The answer came after `timeout_ms`; `late_outcome` is what it would have been in time.
        trouble: Why there was no exchange.
    """

    aggregator: str
    auction_id: str
    marked: bool
    channel_id: str
    slot_ms: int
    max_ads: int
    floor_micros: int
    currency: str
    timeout_ms: int
    tmax_ms: int | None
    exchanges: list[ExchangeTold]
    phases: PhasesTold | None
    outcome: str
    detail: str | None
    no_bid_reason: int | None
    answered_late: bool
    late_outcome: str | None
    trouble: Trouble | None
    bids: list[BidTold]
    flawed: list[FlawedTold]


class Tested(_Told, frozen=True, kw_only=True):
    """The whole document.

    Attributes:
        name: As asked for.
        aggregator: The configured aggregator; `None` when `name` is a dialect.
        probe: `None` when none was made.
        verdict: One line.
        remedy: What to do; empty when there is nothing to do.
    """

    name: str
    aggregator: str | None
    ok: bool
    exit_code: int
    verdict: str
    remedy: str
    cases: CasesTold
    probe: ProbeTold | None


class AggregatorListed(_Told, frozen=True, kw_only=True):
    """One configured aggregator."""

    name: str
    dialect: str
    host: str
    timeout_ms: int
    notices: tuple[str, ...]
    withhold: tuple[str, ...]


class DialectListed(_Told, frozen=True, kw_only=True):
    """One dialect and the number of its cases."""

    name: str
    exemplary: int
    supplemental: int


class Listed(_Told, frozen=True, kw_only=True):
    """All aggregators and dialects."""

    aggregators: list[AggregatorListed]
    dialects: list[DialectListed]
