"""Markup that is too large for a push is refused before it is worked on."""

from __future__ import annotations

import msgspec
import pytest

from aggregators.contract import ReplyError
from aggregators.openrtb.creative import MAX_MARKUP_BYTES, creative_of
from aggregators.openrtb.messages import BidMessage
from datastreamx.model.auction import Outcome


def _bid(adm: str) -> BidMessage:
    return BidMessage(id="b-1", impid="1", price=msgspec.Raw(b"1"), crid="c-1", adm=adm)


def _rejection(adm: str, macros: dict[str, str]) -> str:
    with pytest.raises(ReplyError) as caught:
        creative_of(_bid(adm), macros)
    assert caught.value.code is Outcome.CREATIVE_REJECTED
    return caught.value.detail


def test_the_largest_markup_fits_and_one_byte_more_does_not() -> None:
    largest = "<VAST>".ljust(MAX_MARKUP_BYTES)
    assert creative_of(_bid(largest), {})[1] is not None
    assert f"markup of {MAX_MARKUP_BYTES + 1} bytes" in _rejection(largest + " ", {})


def test_size_is_counted_in_bytes() -> None:
    assert "markup of" in _rejection("<VAST>" + "é" * (MAX_MARKUP_BYTES // 2), {})


@pytest.mark.parametrize("start", ["<VAST>", "https://t.example/?"])
def test_macros_cannot_blow_markup_up(start: str) -> None:
    macros = {"BID_ID": "/" * 512}
    assert "fit" in _rejection(start + "${AUCTION_BID_ID}" * 20, macros)
    # Longer than a push even as it came: refused at its own length, not at the length that it would grow to.
    huge = start + "${AUCTION_BID_ID}" * 10_000
    assert f"markup of {len(huge)} bytes" in _rejection(huge, macros)
