"""The VAST reader reads what is sound and lets nothing else through, whatever an XML document can think of."""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from lxml import etree

from aggregators import vast as reader
from aggregators.contract import ReplyError
from aggregators.vast import MAX_DOCUMENT_BYTES, MAX_NAMESPACES, MAX_PUSHED_BYTES, VastAd, VastPrice, read_vast
from datastreamx.model.auction import Outcome
from tests.contracts.hostile import MEDIA, TRACKER, vast, vast_documents

MIMES = frozenset({"video/mp4"})


def read_all(document: bytes) -> list[VastAd]:
    return [read() for read in read_vast(document, MIMES)]


def read_one(document: str) -> VastAd:
    (ad,) = read_all(document.encode())
    return ad


def result_of(document: bytes) -> list[VastAd] | ReplyError:
    try:
        return read_all(document)
    except ReplyError as error:
        return error


def refusal(document: bytes) -> ReplyError:
    with pytest.raises(ReplyError) as caught:
        read_all(document)
    return caught.value


def test_the_parts_of_an_ad_are_read() -> None:
    extra = (
        "<Advertiser>brand.example</Advertiser><Category>IAB1</Category>"
        "<Error>https://errors.example.com/e</Error>"
        '<Extensions><Extension>{"u": "https:\\/\\/beacon.example.com\\/b"}</Extension></Extensions>'
    )
    ad = read_one(vast(extra=extra))
    assert (ad.ad_id, ad.creative_id, ad.duration_ms) == ("1", "c", 15_000)
    assert ad.media == (MEDIA,)
    assert ad.tracker_hosts == ("errors.example.com", "track.example.com")
    assert ad.hosts == ("beacon.example.com", "cdn.example.com", "errors.example.com", "track.example.com")
    assert (ad.advertiser, ad.categories) == ("brand.example", ("IAB1",))
    assert ad.price == VastPrice(model="CPM", currency="USD", value="5")


@pytest.mark.parametrize(
    "document", ["<VAST/>", '<VAST version="2.0"></VAST>', "<VAST><Error>https://a.example/</Error></VAST>"]
)
def test_a_document_without_ads_is_a_no_bid(document: str) -> None:
    assert read_all(document.encode()) == []


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [("00:00:15", 15_000), ("01:02:03.5", 3_723_500), ("00:00:00.040", 40), (" 00:00:30 ", 30_000), ("00:00:00", None)],
)
def test_durations_are_read_to_the_millisecond(text: str, duration_ms: int | None) -> None:
    assert read_one(vast().replace("00:00:15", text)).duration_ms == duration_ms


@pytest.mark.parametrize(
    "tracker",
    [
        "<![CDATA[ https://track.example.com/i?a=1&b=[CACHEBUSTING] ]]>",
        "https://track.example.com/i?a=1&amp;b=%%CACHE%%",
        "https://track.<!-- comment -->example.com/i",
        "https://<![CDATA[track.example]]>.com/i",
        "HTTPS://TRACK.EXAMPLE.COM:443/i",
    ],
)
def test_an_address_is_read_as_a_box_would_read_it(tracker: str) -> None:
    assert read_one(vast(tracker=tracker)).tracker_hosts == ("track.example.com",)


def test_what_is_handed_on_is_the_ad_alone_and_reads_the_same() -> None:
    noise = "<!-- comment --><Error>https://elsewhere.example/e</Error>"
    ad = read_one(vast().replace('"4.2">', f'"4.2">{noise}').replace(' id="1"', ' id="1" sequence="2"'))
    again = read_one(ad.document.decode())
    assert again == ad
    assert b"elsewhere" not in ad.document
    assert b"comment" not in ad.document
    assert b"sequence" not in ad.document
    scheme, _, data = ad.address().partition(",")
    assert scheme == "data:application/xml;base64"
    assert base64.b64decode(data) == ad.document


def test_an_ad_that_must_be_refused_leaves_the_others_alone() -> None:
    wrapper = "<Ad><Wrapper/></Ad>"
    first, second = read_vast(vast().replace("</VAST>", wrapper + "</VAST>").encode(), MIMES)
    assert first().ad_id == "1"
    with pytest.raises(ReplyError, match="wrapper"):
        second()


def test_ids_of_a_creative_are_taken_best_first() -> None:
    universal = '<UniversalAdId idRegistry="ad-id.org">CNPA1</UniversalAdId>'
    assert read_one(vast().replace("<Linear>", universal + "<Linear>")).creative_id == "CNPA1"
    old = '<UniversalAdId idRegistry="ad-id.org" idValue="CNPA2">unknown</UniversalAdId>'
    assert read_one(vast().replace("<Linear>", old + "<Linear>")).creative_id == "c"
    assert read_one(vast().replace('id="c"', 'id="c" adId="a"')).creative_id == "a"
    assert read_one(vast().replace(' id="c"', "")).creative_id is None


def test_the_largest_ad_fits_into_a_push_and_one_byte_more_does_not() -> None:
    room = MAX_PUSHED_BYTES - len(read_one(vast(title="")).document)
    # An empty title is written `<AdTitle/>` and needs more once there is something in it.
    room -= len("<AdTitle></AdTitle>") - len("<AdTitle/>")
    assert len(read_one(vast(title="x" * room)).document) == MAX_PUSHED_BYTES
    read_one(vast(title="x" * room)).address()
    with pytest.raises(ReplyError, match="fit into a push") as caught:
        read_one(vast(title="x" * (room + 1))).address()
    assert caught.value.code is Outcome.CREATIVE_REJECTED


def test_a_document_beyond_the_limit_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etree, "fromstring", _never)
    assert refusal(b" " * (MAX_DOCUMENT_BYTES + 1)).code is Outcome.INVALID_RESPONSE


def _never(*_: object) -> None:
    raise AssertionError("the parser was called")


@pytest.mark.parametrize("name", vast_documents())
def test_hostile_xml_is_refused(name: str) -> None:
    error = refusal(vast_documents()[name])
    assert error.code in {Outcome.INVALID_RESPONSE, Outcome.CREATIVE_REJECTED}
    assert error.detail
    assert len(error.detail) < 300, "a detail is for a human and a table"


@pytest.mark.parametrize("is_checked_before", [True, False], ids=["both checks", "parser alone"])
def test_nothing_is_read_from_files_or_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_checked_before: bool
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("TOP-SECRET")
    if not is_checked_before:
        # The second wall has to hold without the first.
        monkeypatch.setattr(reader, "_DOORS", re.compile(rb"(?!)"))
        monkeypatch.setattr(reader, "_check_encoding", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        for name, document in vast_documents(str(secret), url).items():
            # Without the first wall, what merely declares another encoding is read, and as UTF-8.
            outcome = result_of(document)
            assert isinstance(outcome, ReplyError) or not is_checked_before, name
            told = (
                outcome.detail.encode() if isinstance(outcome, ReplyError) else b"".join(ad.document for ad in outcome)
            )
            assert b"TOP-SECRET" not in told, name
        with pytest.raises(BlockingIOError):
            server.accept()


def test_namespaces_are_bounded_before_the_parser_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ad is written anew with all of them, which takes the square of their number."""
    declared = " ".join(f'xmlns:n{number}="u"' for number in range(MAX_NAMESPACES + 1))
    ad = "<Ad/>" * 64
    few = declared.rpartition(" ")[0]
    assert len(read_vast(f'<VAST version="4.0" {few}>{ad}</VAST>'.encode(), {"video/mp4"})) == 64
    monkeypatch.setattr(etree, "fromstring", _never)
    error = refusal(f'<VAST version="4.0" {declared}>{ad}</VAST>'.encode())
    assert (error.code, "namespaces" in error.detail) == (Outcome.INVALID_RESPONSE, True)


def test_without_the_first_check_a_doctype_is_still_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_DOORS", re.compile(rb"(?!)"))
    for name, document in vast_documents().items():
        if b"<!DOCTYPE" in document:
            assert refusal(document).code is Outcome.INVALID_RESPONSE, name


@pytest.mark.parametrize("change", [str.upper, str.lower])
def test_names_are_read_exactly(change: Callable[[str], str]) -> None:
    document = vast().replace("InLine", change("InLine"))
    assert "InLine" in refusal(document.encode()).detail


def test_a_media_file_in_another_namespace_is_not_played_but_its_host_counts() -> None:
    other = '<x:MediaFile xmlns:x="urn:x" type="video/mp4">https://other.example.com/x.mp4</x:MediaFile></MediaFiles>'
    ad = read_one(vast().replace("</MediaFiles>", other))
    assert ad.media == (MEDIA,)
    assert "other.example.com" in ad.hosts
    assert TRACKER.split("/")[2] in ad.hosts


def test_the_parser_by_itself_reads_no_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("TOP-SECRET")
    read = 0
    for document in vast_documents(str(secret)).values():
        try:
            text = etree.tostring(etree.fromstring(document, reader._parser()))
        except etree.XMLSyntaxError:
            continue
        read += 1
        assert b"TOP-SECRET" not in text
    assert read > 10, "nothing was tested"
