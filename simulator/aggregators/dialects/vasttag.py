"""A VAST tag with a price: GET, answered with a VAST 4.0 document that is bid and creative in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import Meta

from simulator.aggregators.dialects import vast
from simulator.aggregators.dialects.contract import Ask, BadRequestError, Dialect, Offer
from simulator.aggregators.dialects.formats import XML


class _Request(msgspec.Struct):
    auction: Annotated[str, Meta(min_length=1)]
    channel: Annotated[str, Meta(min_length=1)]
    duration: Annotated[int, Meta(ge=1)]
    floor: Decimal = Decimal(0)
    last_ad: str | None = None


def _read(method: str, query: Mapping[str, str], _body: bytes) -> Ask:
    if method != "GET":
        raise BadRequestError(f"a VAST tag is fetched by GET, not {method}")
    try:
        request = msgspec.convert(dict(query), _Request, strict=False)
    except msgspec.DecodeError as error:
        raise BadRequestError(str(error)) from None
    slot_ms = request.duration * 1_000
    return Ask(
        auction_id=request.auction,
        break_ms=slot_ms,
        longest_ms=slot_ms,
        floor=request.floor,
        last_ad=request.last_ad or None,
        told_box=False,
        told_history=bool(request.last_ad),
        told_consent=False,
    )


def _write(_ask: Ask, offers: Sequence[Offer]) -> bytes:
    offer = offers[0]
    return (offer.document or vast.document(offer.ad, price=offer.price, currency=offer.currency)).encode()


VASTTAG = Dialect(
    read=_read,
    write=_write,
    format=XML,
    no_bid=vast.NO_AD.encode(),
    # The document echoes neither request nor slot.
    cannot=frozenset({"wrong_id", "wrong_imp"}),
)
