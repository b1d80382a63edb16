"""One flat request by GET or POST; one flat JSON answer, or `{"ads": [...]}` when several ads were asked for."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from simulator.aggregators.dialects.contract import Ask, BadRequestError, Dialect, Offer
from simulator.aggregators.dialects.formats import JSON

_ENCODER = msgspec.json.Encoder()
_NOTICE_FIELDS = {"win": "win_url", "loss": "loss_url", "billing": "bill_url"}


class _Request(msgspec.Struct):
    id: Annotated[str, Meta(min_length=1)]
    channel: Annotated[str, Meta(min_length=1)]
    slot_ms: Annotated[int, Meta(ge=1)]
    box: Annotated[str, Meta(min_length=1)] | None = None
    floor: Decimal = Decimal(0)
    last_ad: str | None = None
    last_channel: str | None = None
    max_ads: Annotated[int, Meta(ge=1, le=64)] = 1
    block: str = ""
    consent_history: Literal[0, 1] | None = None
    gdpr: Literal[0, 1] | None = None
    tcf: str | None = None
    gpp: str | None = None
    us_privacy: str | None = None


_REQUEST = msgspec.json.Decoder(_Request)


def _read(method: str, query: Mapping[str, str], body: bytes) -> Ask:
    try:
        is_get = method == "GET"
        request = msgspec.convert(dict(query), _Request, strict=False) if is_get else _REQUEST.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequestError(str(error)) from None
    consent = (request.consent_history, request.gdpr, request.tcf, request.gpp, request.us_privacy)
    return Ask(
        auction_id=request.id,
        break_ms=request.slot_ms,
        longest_ms=request.slot_ms,
        max_ads=request.max_ads,
        floor=request.floor,
        last_ad=request.last_ad,
        blocked=tuple(domain for domain in request.block.split(",") if domain),
        told_box=request.box is not None,
        told_history=bool(request.last_ad or request.last_channel),
        told_consent=any(value is not None for value in consent),
    )


def _write(ask: Ask, offers: Sequence[Offer]) -> bytes:
    ads = [_answer(ask.auction_id, offer) for offer in offers]
    return _ENCODER.encode({"ads": ads} if ask.max_ads > 1 else ads[0])


def _answer(auction_id: str, offer: Offer) -> dict[str, object]:
    ad = offer.ad
    answer: dict[str, object] = {
        "id": auction_id,
        "bid": offer.bid_id,
        "ad": ad.ad_id,
        "price": msgspec.Raw(offer.price.encode()),
        "currency": offer.currency,
        "duration_ms": ad.duration_ms,
        "advertiser": ad.advertiser_domain,
    }
    if offer.document is not None:
        # The dialect hands over addresses alone; this is one, too.
        answer["url"] = "data:application/xml;base64," + base64.b64encode(offer.document.encode()).decode()
    elif offer.creative != "preloaded":
        answer["url"] = ad.url
    for event, url in offer.notice_urls.items():
        answer[_NOTICE_FIELDS[event]] = url
    return answer


SIMPLE = Dialect(read=_read, write=_write, format=JSON, cannot=frozenset({"wrong_imp"}))
