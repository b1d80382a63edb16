"""What a dialect is: how a request is read and an answer written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from simulator.aggregators.catalogue import Ad
from simulator.aggregators.dialects.formats import Format

_MICROS = 1_000_000


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for, in any dialect.

    Attributes:
        imp_id: Id of the slot or break, where the dialect has one.
        break_ms: Length of the slot, or of the whole break.
        longest_ms: Longest single ad.
        max_ads: Most ads; 1 is a single slot.
        floor: CPM.
        blocked: Domains of advertisers that cannot win.
        told_box: Whether the request names the box.
        told_history: Whether it holds viewing history.
        told_consent: Whether it passes on anything of the viewer's consent.
    """

    auction_id: str
    imp_id: str = "1"
    break_ms: int
    longest_ms: int
    max_ads: int = 1
    floor: Decimal
    last_ad: str | None
    blocked: tuple[str, ...] = ()
    told_box: bool
    told_history: bool
    told_consent: bool


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What is offered, in any dialect.

    Attributes:
        price: CPM, as it is written into the answer.
        document: VAST document to hand over, whatever `creative` says.
        notice_urls: Address by event (`win`, `loss`, `billing`); empty when no notices are wanted.
    """

    bid_id: str
    imp_id: str
    price: str
    currency: str
    creative: Literal["url", "inline", "preloaded"]
    ad: Ad
    document: str | None = None
    notice_urls: Mapping[str, str] = {}


class BadRequestError(Exception):
    """The request breaks the dialect."""


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """One protocol.

    Attributes:
        read: From method, query and body to what is asked; raises `BadRequestError`.
        write: Answer with these offers, of which there is at least one.
        format: What answers are made of.
        no_bid: Body of an answer without a bid; `None` is status 204.
        cannot: Modes for which the dialect has no words.
    """

    read: Callable[[str, Mapping[str, str], bytes], Ask]
    write: Callable[[Ask, Sequence[Offer]], bytes]
    format: Format
    no_bid: bytes | None = None
    cannot: frozenset[str] = frozenset()


def price_text(micros: int) -> str:
    """Millionths as a decimal number."""
    return f"{micros // _MICROS}.{micros % _MICROS:06d}"
