"""OpenRTB 2.6 by POST: single slots, and dynamic pods by `video.poddur` and `video.maxseq`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from simulator.aggregators.dialects import vast
from simulator.aggregators.dialects.contract import Ask, BadRequestError, Dialect, Offer
from simulator.aggregators.dialects.formats import JSON

MAX_ADS = 16
"""Most bids for one break, whatever is asked for."""

_ENCODER = msgspec.json.Encoder()
_NOTICE_FIELDS = {"win": "nurl", "loss": "lurl", "billing": "burl"}


class _Video(msgspec.Struct):
    mimes: Annotated[list[str], Meta(min_length=1)]
    maxduration: Annotated[int, Meta(ge=1)] | None = None
    poddur: Annotated[int, Meta(ge=1)] | None = None
    maxseq: Annotated[int, Meta(ge=1)] | None = None


class _Imp(msgspec.Struct):
    id: str
    video: _Video
    bidfloor: Decimal = Decimal(0)


class _Device(msgspec.Struct):
    devicetype: Literal[7]


class _App(msgspec.Struct):
    bundle: str


class _User(msgspec.Struct):
    id: str | None = None
    consent: str | None = None
    data: list[object] = []


class _Regs(msgspec.Struct):
    gdpr: int | None = None
    gpp: str | None = None
    us_privacy: str | None = None


class _Stb(msgspec.Struct):
    last_ad: str | None = None
    prev_channel: str | None = None


class _Ext(msgspec.Struct):
    stb: _Stb = msgspec.field(default_factory=_Stb)


class _Request(msgspec.Struct):
    id: Annotated[str, Meta(min_length=1)]
    imp: Annotated[list[_Imp], Meta(min_length=1)]
    at: Literal[1]
    tmax: Annotated[int, Meta(ge=1)]
    cur: Annotated[list[str], Meta(min_length=1)]
    device: _Device
    app: _App
    user: _User = msgspec.field(default_factory=_User)
    regs: _Regs = msgspec.field(default_factory=_Regs)
    badv: list[str] = []
    ext: _Ext = msgspec.field(default_factory=_Ext)


_REQUEST = msgspec.json.Decoder(_Request)


def _read(method: str, _query: Mapping[str, str], body: bytes) -> Ask:
    if method != "POST":
        raise BadRequestError(f"OpenRTB is spoken by POST, not {method}")
    try:
        request = _REQUEST.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequestError(str(error)) from None
    imp, user, regs, stb = request.imp[0], request.user, request.regs, request.ext.stb
    video = imp.video
    break_s = video.poddur or video.maxduration
    if break_s is None:
        raise BadRequestError("neither video.maxduration nor video.poddur says how long the ad may be")
    return Ask(
        auction_id=request.id,
        imp_id=imp.id,
        break_ms=break_s * 1_000,
        longest_ms=min(video.maxduration or break_s, break_s) * 1_000,
        max_ads=1 if video.poddur is None else min(video.maxseq or MAX_ADS, MAX_ADS),
        floor=imp.bidfloor,
        last_ad=stb.last_ad,
        blocked=tuple(request.badv),
        told_box=user.id is not None,
        told_history=bool(stb.last_ad or stb.prev_channel or user.data),
        told_consent=any(value is not None for value in (user.consent, regs.gdpr, regs.gpp, regs.us_privacy)),
    )


def _write(ask: Ask, offers: Sequence[Offer]) -> bytes:
    answer = {"id": ask.auction_id, "cur": offers[0].currency, "seatbid": [{"bid": [_bid(offer) for offer in offers]}]}
    return _ENCODER.encode(answer)


def _bid(offer: Offer) -> dict[str, object]:
    ad = offer.ad
    bid: dict[str, object] = {
        "id": offer.bid_id,
        "impid": offer.imp_id,
        "price": msgspec.Raw(offer.price.encode()),
        "crid": ad.ad_id,
        "adomain": [ad.advertiser_domain],
        "dur": ad.duration_ms // 1_000,
        "mtype": 2,
    }
    if offer.document is not None:
        bid["adm"] = offer.document
    elif offer.creative == "preloaded":
        bid["adid"] = ad.ad_id
    else:
        bid["adm"] = ad.url if offer.creative == "url" else vast.document(ad)
    for event, url in offer.notice_urls.items():
        bid[_NOTICE_FIELDS[event]] = url
    return bid


OPENRTB = Dialect(read=_read, write=_write, format=JSON)
