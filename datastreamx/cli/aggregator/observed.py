"""From what was observed to the document that tells of it. Pure."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
from msgspec.structs import replace
from yarl import URL

from aggregators.contract import HttpCall, HttpReply, ReplyError
from datastreamx.cli.aggregator.redact import hidden_headers, hidden_text, hidden_url, secrets_of
from datastreamx.cli.aggregator.report import (
    MAX_BODY_CHARS,
    BidTold,
    ExchangeTold,
    NoticeTold,
    PhasesTold,
    ReplyTold,
    RequestTold,
    Trouble,
)
from datastreamx.config import AggregatorConfig, NoticeEvent
from datastreamx.model.auction import Bid, NoticeUrls
from operators.bidding.auction import CallResult, Offer, Refusal
from operators.http.dns import refuse_literal
from operators.notices.macros import expand
from operators.notices.notice import Notice, NoticeRules

_ALL_NOTICES: Final[tuple[NoticeEvent, ...]] = ("win", "loss", "billing")


@dataclass
class Exchange:
    """One call as it left, and how it ended.

    Attributes:
        headers: All but those that the HTTP client adds by itself.
    """

    call: HttpCall
    headers: Mapping[str, str]
    reply: HttpReply | None = None
    error: Exception | None = None


def exchange_told(seen: Exchange, aggregator: AggregatorConfig) -> ExchangeTold:
    """One request and its reply, without what the configuration may want to keep secret."""
    call, reply = seen.call, seen.reply
    return ExchangeTold(
        request=RequestTold(
            method=call.method,
            url=hidden_url(call.url, aggregator.url),
            headers=hidden_headers(seen.headers, aggregator.headers),
            body=None if call.body is None else _text(call.body, aggregator),
        ),
        reply=None
        if reply is None
        else ReplyTold(
            status=reply.status,
            headers=hidden_headers(reply.headers),
            body_bytes=len(reply.body),
            body=_text(reply.body, aggregator),
        ),
    )


def _text(body: bytes, aggregator: AggregatorConfig) -> str:
    # Before the cut: half a secret at the end would not be found any more.
    return hidden_text(body.decode(errors="backslashreplace"), secrets_of(aggregator))[:MAX_BODY_CHARS]


def phases_told(result: CallResult) -> PhasesTold | None:
    """Where the time went; `None` if nothing was sent."""
    if result.latency_us is None:
        return None
    return PhasesTold(
        dns_us=result.dns_us,
        connect_us=result.connect_us,
        first_byte_us=result.first_byte_us,
        total_us=result.latency_us,
        connection_reused=bool(result.connection_reused),
    )


def trouble_of(errors: Sequence[Exception | None]) -> Trouble | None:  # noqa: PLR0911  one per kind
    """Why there was no exchange; `None` if there was one."""
    match next((error for error in errors if error is not None), None):
        case None | ReplyError() | aiohttp.ClientResponseError():
            return None
        case aiohttp.ClientConnectorCertificateError():
            return "untrusted"
        case aiohttp.ClientConnectorDNSError():
            return "name"
        case aiohttp.ClientConnectorError(os_error=ssl.SSLError()) | ssl.SSLError():
            return "tls"
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return "refused"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | ConnectionResetError():
            return "closed"
        case _:
            return "other"


def bid_told(judged: Offer | Refusal, aggregator: AggregatorConfig) -> BidTold:
    """One bid, as read and as judged."""
    bid, refusal = judged.bid, judged if isinstance(judged, Refusal) else None
    return BidTold(
        bid_id=bid.bid_id,
        can_win=refusal is None,
        code=None if refusal is None else refusal.code.label,
        detail=None if refusal is None else refusal.detail,
        price_micros=judged.price_micros,
        offered_micros=bid.price_micros,
        offered_currency=bid.currency,
        rate_id=judged.rate_id,
        ad_id=bid.ad_id,
        creative_url=bid.creative_url,
        duration_ms=bid.duration_ms,
        advertiser_domain=bid.advertiser_domain,
        notices=_notices(bid, aggregator),
    )


def _notices(bid: Bid, aggregator: AggregatorConfig) -> list[NoticeTold]:
    rules = NoticeRules([replace(aggregator, notices=_ALL_NOTICES)])
    urls = bid.notices or NoticeUrls()
    return [
        NoticeTold(
            event=event,
            url=url,
            wanted=event in aggregator.notices,
            objection=_objection(rules, aggregator, bid, event, url),
        )
        for event, url in zip(_ALL_NOTICES, (urls.win, urls.loss, urls.billing), strict=True)
        if url is not None
    ]


def _objection(rules: NoticeRules, aggregator: AggregatorConfig, bid: Bid, event: NoticeEvent, url: str) -> str | None:
    """Judged as before sending; what a name resolves to is judged only then."""
    # Macros without values vanish; that is enough to know the host.
    notice = Notice("", aggregator.name, bid.bid_id, event, expand(url, {}), 0, 0, 0)
    objection = rules.objection(notice)
    if objection is not None or aggregator.notice_network != "public":
        return objection
    try:
        refuse_literal(URL(notice.url, encoded=True).raw_host or "")
    except OSError as error:
        return str(error)
    return None
