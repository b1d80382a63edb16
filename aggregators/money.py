"""Prices on the wire are decimal numbers per thousand impressions (CPM); inside they are integer micros."""

from __future__ import annotations

import decimal
from decimal import Decimal

from aggregators.contract import ReplyError
from datastreamx.model.auction import Outcome

MICROS = 1_000_000
MAX_PRICE_MICROS = 10**15
"""A CPM of a thousand million: far above any honest price in any currency, and far below what an INT64 column holds."""

_MAX_NUMBER_CHARS = 64
# Holds every digit of a number of that many characters, so that the only rounding is the cut at one micro.
_CONTEXT = decimal.Context(prec=_MAX_NUMBER_CHARS)
_MAX_PRICE = Decimal(MAX_PRICE_MICROS).scaleb(-6)


def micros_of(number: bytes) -> int:
    """Integer micros of a JSON number's text; cut off below one micro, so that nobody pays more than was bid.

    Works on the text because a float has already lost what was written: 1.005 is not 1.005.

    Raises:
        ReplyError: `INVALID_RESPONSE`: no JSON number (a string, null, an object), negative, or beyond
            `MAX_PRICE_MICROS`.
    """
    if not number[:1].isdigit() and number[:1] != b"-":
        raise _refused(number, "is no JSON number")
    if len(number) > _MAX_NUMBER_CHARS:
        raise _refused(number, f"has more than {_MAX_NUMBER_CHARS} characters")
    try:
        price = Decimal(number.decode("ascii"))
    except (decimal.InvalidOperation, UnicodeDecodeError):
        raise _refused(number, "is no JSON number") from None
    if not 0 <= price <= _MAX_PRICE:
        raise _refused(number, f"is not between 0 and {_MAX_PRICE:f}")
    return int(_CONTEXT.scaleb(price, 6))


def decimal_text(micros: int) -> str:
    """Plain decimal text of micros, without exponent or idle zeros: 11500000 is `11.5`."""
    whole, fraction = divmod(micros, MICROS)
    return f"{whole}.{fraction:06d}".rstrip("0").rstrip(".")


def _refused(number: bytes, why: str) -> ReplyError:
    return ReplyError(Outcome.INVALID_RESPONSE, f"price {number[:40].decode(errors='replace')} {why}")
