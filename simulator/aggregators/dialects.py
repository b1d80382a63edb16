"""What the aggregator understands and says. Written from the protocols, not from our adapters, so that both are tested.

A dialect is strict about what it needs: a request without it is answered with 400 and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from simulator.aggregators.catalogue import Ad

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_MICROS_EXPONENT = -6


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for, in any dialect; `floor` is CPM."""

    auction_id: str
    slot_ms: int
    floor: Decimal
    last_ad: str | None


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What is offered, in any dialect."""

    bid_id: str
    price_micros: int
    currency: str
    creative: Literal["url", "inline", "preloaded"]
    ad: Ad


class BadRequestError(Exception):
    """The request breaks the dialect."""


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """One protocol.

    Attributes:
        read: From method, query and body to what is asked.
        write: Answer to the auction with the given id.
    """

    read: Callable[[str, Mapping[str, str], bytes], Ask]
    write: Callable[[str, Offer], bytes]


class _Video(msgspec.Struct):
    mimes: Annotated[list[str], Meta(min_length=1)]
    maxduration: Annotated[int, Meta(ge=1)]


class _Imp(msgspec.Struct):
    id: str
    video: _Video
    bidfloor: Decimal = Decimal(0)


class _Device(msgspec.Struct):
    devicetype: Literal[7]


class _App(msgspec.Struct):
    bundle: str


class _User(msgspec.Struct):
    id: str


class _Stb(msgspec.Struct):
    last_ad: str | None = None


class _Ext(msgspec.Struct):
    stb: _Stb = msgspec.field(default_factory=_Stb)


class _OpenRtbRequest(msgspec.Struct):
    id: Annotated[str, Meta(min_length=1)]
    imp: Annotated[list[_Imp], Meta(min_length=1)]
    at: Literal[1]
    tmax: Annotated[int, Meta(ge=1)]
    cur: Annotated[list[str], Meta(min_length=1)]
    device: _Device
    app: _App
    user: _User
    ext: _Ext = msgspec.field(default_factory=_Ext)


_OPENRTB_REQUEST = msgspec.json.Decoder(_OpenRtbRequest)


def _read_openrtb(method: str, _query: Mapping[str, str], body: bytes) -> Ask:
    if method != "POST":
        raise BadRequestError(f"OpenRTB is spoken by POST, not {method}")
    try:
        request = _OPENRTB_REQUEST.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequestError(str(error)) from None
    imp = request.imp[0]
    return Ask(
        auction_id=request.id,
        slot_ms=imp.video.maxduration * 1_000,
        floor=imp.bidfloor,
        last_ad=request.ext.stb.last_ad,
    )


def _write_openrtb(auction_id: str, offer: Offer) -> bytes:
    ad = offer.ad
    bid: dict[str, object] = {
        "id": offer.bid_id,
        "impid": "1",
        "price": _decimal(offer.price_micros),
        "crid": ad.ad_id,
        "adomain": [ad.advertiser_domain],
        "dur": ad.duration_ms // 1_000,
        "mtype": 2,
    }
    if offer.creative == "preloaded":
        bid["adid"] = ad.ad_id
    else:
        bid["adm"] = ad.url if offer.creative == "url" else _vast(ad)
    return _ENCODER.encode({"id": auction_id, "cur": offer.currency, "seatbid": [{"bid": [bid]}]})


class _SimpleRequest(msgspec.Struct):
    id: Annotated[str, Meta(min_length=1)]
    box: Annotated[str, Meta(min_length=1)]
    channel: Annotated[str, Meta(min_length=1)]
    slot_ms: Annotated[int, Meta(ge=1)]
    floor: Decimal = Decimal(0)
    last_ad: str | None = None


_SIMPLE_REQUEST = msgspec.json.Decoder(_SimpleRequest)


def _read_simple(method: str, query: Mapping[str, str], body: bytes) -> Ask:
    try:
        if method == "GET":
            request = msgspec.convert(dict(query), _SimpleRequest, strict=False)
        else:
            request = _SIMPLE_REQUEST.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequestError(str(error)) from None
    return Ask(auction_id=request.id, slot_ms=request.slot_ms, floor=request.floor, last_ad=request.last_ad)


def _write_simple(auction_id: str, offer: Offer) -> bytes:
    ad = offer.ad
    answer: dict[str, object] = {
        "id": auction_id,
        "bid": offer.bid_id,
        "ad": ad.ad_id,
        "price": _decimal(offer.price_micros),
        "currency": offer.currency,
        "duration_ms": ad.duration_ms,
        "advertiser": ad.advertiser_domain,
    }
    if offer.creative != "preloaded":
        answer["url"] = ad.url
    return _ENCODER.encode(answer)


def _decimal(micros: int) -> Decimal:
    return Decimal(micros).scaleb(_MICROS_EXPONENT)


def _vast(ad: Ad) -> str:
    seconds = ad.duration_ms // 1_000
    return (
        f'<VAST version="4.0"><Ad id="{ad.ad_id}"><InLine><AdSystem>simulator</AdSystem><AdTitle>{ad.ad_id}</AdTitle>'
        f"<Impression><![CDATA[https://{ad.advertiser_domain}/shown?price=${{AUCTION_PRICE}}]]></Impression>"
        f"<Creatives><Creative><Linear><Duration>00:00:{seconds:02d}</Duration><MediaFiles>"
        f'<MediaFile delivery="progressive" type="video/mp4" width="1920" height="1080">{ad.url}</MediaFile>'
        "</MediaFiles></Linear></Creative></Creatives></InLine></Ad></VAST>"
    )


DIALECTS: dict[str, Dialect] = {
    "openrtb": Dialect(read=_read_openrtb, write=_write_openrtb),
    "simple": Dialect(read=_read_simple, write=_write_simple),
}
