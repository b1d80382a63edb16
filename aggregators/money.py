"""Prices on the wire are decimal numbers per thousand impressions (CPM); inside they are integer micros."""

from __future__ import annotations

import decimal
import re
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
# Stricter than `Decimal`, which also reads `1_000`, ` 1 ` and `1.`.
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


def micros_of(number: bytes) -> int:
    """Integer micros of a number's text, in JSON's notation.

    Cut off below one micro, so that nobody pays more than was bid. Works on the text because a float has already lost
    what was written: 1.005 is not 1.005.

    Raises:
        ReplyError: `INVALID_RESPONSE`: no number (a string, null, an object), negative, or beyond `MAX_PRICE_MICROS`.
    """
    if len(number) > _MAX_NUMBER_CHARS:
        raise _refused(number, f"has more than {_MAX_NUMBER_CHARS} characters")
    if not _NUMBER.fullmatch(number):
        raise _refused(number, "is no number")
    try:
        price = Decimal(number.decode("ascii"))
    except decimal.InvalidOperation:
        # An exponent of fifty digits.
        raise _refused(number, "is no number of this world") from None
    if not 0 <= price <= _MAX_PRICE:
        raise _refused(number, f"is not between 0 and {_MAX_PRICE:f}")
    return int(_CONTEXT.scaleb(price, 6))


def decimal_text(micros: int) -> str:
    """Plain decimal text of micros, without exponent or idle zeros: 11500000 is `11.5`."""
    whole, fraction = divmod(micros, MICROS)
    return f"{whole}.{fraction:06d}".rstrip("0").rstrip(".")


def _refused(number: bytes, why: str) -> ReplyError:
    return ReplyError(Outcome.INVALID_RESPONSE, f"price {number[:40].decode(errors='replace')} {why}")
