"""Markup of a bid: macros, sizes, and which of its sources counts."""

from __future__ import annotations

import base64

import msgspec
import pytest

from aggregators.contract import ReplyError
from aggregators.openrtb.creative import Creative, creative_of, expand_known
from aggregators.openrtb.messages import BidMessage
from aggregators.vast import MAX_PUSHED_BYTES
from datastreamx.model.auction import Outcome
from tests.contracts.hostile import vast, vast_documents

MIMES = frozenset({"video/mp4"})
URL = "https://cdn.example.com/v.xml"


def _bid(adm: str | None = None, adid: str | None = None, nurl: str | None = None) -> BidMessage:
    return BidMessage(id="b-1", impid="1", price=msgspec.Raw(b"1"), crid="c-1", adm=adm, adid=adid, nurl=nurl)


def _creative(macros: dict[str, str], **fields: str) -> Creative:
    return creative_of(_bid(**fields), macros, MIMES)


def _rejection(adm: str, macros: dict[str, str]) -> str:
    with pytest.raises(ReplyError) as caught:
        creative_of(_bid(adm=adm), macros, MIMES)
    assert caught.value.code is Outcome.CREATIVE_REJECTED
    return caught.value.detail


def test_the_largest_markup_fits_and_one_byte_more_does_not() -> None:
    largest = vast().ljust(MAX_PUSHED_BYTES)
    assert _creative({}, adm=largest).url is not None
    assert f"markup of {MAX_PUSHED_BYTES + 1} bytes" in _rejection(largest + " ", {})


def test_size_is_counted_in_bytes() -> None:
    assert "markup of" in _rejection("<VAST>" + "é" * (MAX_PUSHED_BYTES // 2), {})


@pytest.mark.parametrize("start", ["<VAST>", "https://t.example/?"])
def test_macros_cannot_blow_markup_up(start: str) -> None:
    macros = {"BID_ID": "/" * 512}
    assert "fit" in _rejection(start + "${AUCTION_BID_ID}" * 20, macros)
    # Longer than a push even as it came: refused at its own length, not at the length that it would grow to.
    huge = start + "${AUCTION_BID_ID}" * 10_000
    assert f"markup of {len(huge)} bytes" in _rejection(huge, macros)


def _is_text(document: bytes) -> bool:
    try:
        document.decode()
    except UnicodeDecodeError:
        return False
    return True


# The others cannot be in JSON.
@pytest.mark.parametrize("name", [name for name, document in vast_documents().items() if _is_text(document)])
def test_hostile_markup_is_a_rejected_creative_and_never_a_broken_reply(name: str) -> None:
    _rejection(vast_documents()[name].decode(), {})


def test_a_macro_cannot_break_out_of_its_place() -> None:
    url = _creative(
        {"BID_ID": "]]><x>&\"'/?#"}, adm=vast(tracker="<![CDATA[https://t.example/?b=${AUCTION_BID_ID}]]>")
    ).url
    assert url is not None
    document = base64.b64decode(url.partition(",")[2])
    assert b"?b=%5D%5D%3E%3Cx%3E%26%22%27%2F%3F%23]]>" in document
    assert "no plain https" in _rejection("https://${AUCTION_BID_ID}.cdn.example.com/", {"BID_ID": "evil.example/"})


def test_values_are_encoded_as_the_macro_asks() -> None:
    macros = {"PRICE": "9.5"}
    adm = URL + "?p=${AUCTION_PRICE}&b=${AUCTION_PRICE:B64}&r=${AUCTION_PRICE:ROT13}&u=${AUCTION_UNKNOWN}&x=${OTHER}"
    # Only what begins with AUCTION is a macro of the specification.
    assert _creative(macros, adm=adm).url == URL + "?p=9.5&b=OS41&r=&u=&x=${OTHER}"


def test_only_known_macros_of_a_notice_are_replaced() -> None:
    url = "https://n.example/?s=${AUCTION_SEAT_ID}&p=${AUCTION_PRICE}&l=${AUCTION_LOSS:B64}"
    assert (
        expand_known(url, {"SEAT_ID": "a b"}) == "https://n.example/?s=a%20b&p=${AUCTION_PRICE}&l=${AUCTION_LOSS:B64}"
    )
    # Spelled as some hand them out; the sender reads these, too, and would let the seat vanish.
    encoded = "https://n.example/?s=%24%7BAUCTION_SEAT_ID%7D&t=%24%7bAUCTION_SEAT_ID%3aB64%7d&u=${auction_seat_id}"
    assert expand_known(encoded, {"SEAT_ID": "a b"}) == "https://n.example/?s=a%20b&t=YSBi&u=a%20b"
    assert expand_known(None, {}) is None
    # An address that no notice can have is not worked on.
    huge = "${AUCTION_SEAT_ID}" * MAX_PUSHED_BYTES
    assert expand_known(huge, {"SEAT_ID": "x" * 512}) == huge


def test_markup_goes_before_a_preloaded_ad_and_that_before_what_nurl_serves() -> None:
    both = {"adid": "spot-1", "nurl": "https://win.example.com/?p=${AUCTION_PRICE}"}
    assert _creative({}, adm=URL, **both) == Creative(ad_id="c-1", url=URL, hosts=("cdn.example.com",))
    assert _creative({}, **both) == Creative(ad_id="spot-1")
    assert _creative({"PRICE": "2"}, nurl=both["nurl"]) == Creative(
        ad_id="c-1", url="https://win.example.com/?p=2", hosts=("win.example.com",), is_served_by_nurl=True
    )


def test_the_document_knows_its_length_and_its_hosts() -> None:
    creative = _creative({}, adm=vast())
    assert creative.duration_ms == 15_000
    assert creative.hosts == ("cdn.example.com", "track.example.com")
