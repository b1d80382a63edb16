"""What all dialects share: JSON within bounds, addresses that a box may be given, notices, blocked domains."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.contract import ReplyError
from aggregators.replies import (
    MAX_BIDS,
    MAX_JSON_DEPTH,
    MAX_JSON_VALUES,
    MAX_URL_CHARS,
    decode_body,
    domain_of,
    gather,
    host_of,
    notice_urls,
)
from datastreamx.hosts import in_domains
from datastreamx.model.auction import Bid, NoticeUrls, Outcome
from tests.contracts.hostile import STRINGS

ANYTHING: msgspec.json.Decoder[object] = msgspec.json.Decoder(object)


def refusal(body: bytes) -> str:
    with pytest.raises(ReplyError) as caught:
        decode_body(ANYTHING, body)
    assert caught.value.code is Outcome.INVALID_RESPONSE
    return caught.value.detail


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_the_deepest_document_is_read_and_one_level_more_is_not(opening: bytes, closing: bytes) -> None:
    body = opening * MAX_JSON_DEPTH + b"1" + closing * MAX_JSON_DEPTH
    decode_body(ANYTHING, body)
    assert "nested deeper" in refusal(opening + body + closing)


def test_many_values_are_read_up_to_the_limit() -> None:
    decode_body(ANYTHING, b"[" + b"1," * (MAX_JSON_VALUES - 1) + b"1]")
    assert "values" in refusal(b"[" + b"1," * MAX_JSON_VALUES + b"1]")


def test_brackets_and_commas_in_strings_do_not_count() -> None:
    text = '[{,"\\' * MAX_JSON_VALUES
    assert decode_body(ANYTHING, json.dumps([text]).encode()) == [text]


@settings(deadline=None)
@given(
    document=st.recursive(
        st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_what_is_within_the_limits_is_read_as_it_is(document: object) -> None:
    assert decode_body(ANYTHING, json.dumps(document, ensure_ascii=False).encode()) == document


@settings(deadline=None)
@given(body=st.text(alphabet='"\\[]{},:a ', max_size=300).map(lambda text: text.encode() * 50))
def test_no_document_escapes_the_check_of_its_shape(body: bytes) -> None:
    with pytest.raises(ReplyError):
        decode_body(ANYTHING, b"[" * (MAX_JSON_DEPTH + 1) + body)


@pytest.mark.parametrize("name", sorted(STRINGS))
def test_no_hostile_string_is_an_address_for_a_box(name: str) -> None:
    with pytest.raises(ReplyError) as caught:
        host_of(STRINGS[name])
    assert caught.value.code is Outcome.CREATIVE_REJECTED


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://cdn.example.com/x.mp4", "cdn.example.com"),
        ("https://CDN.Example.com:8443/x?a=[CACHEBUSTING]#t=1", "cdn.example.com"),
        ("https://my_bucket.s3-eu-west-1.example.com", "my_bucket.s3-eu-west-1.example.com"),
        ("https://xn--bcher-kva.example/x", "xn--bcher-kva.example"),
    ],
)
def test_honest_addresses_have_a_host(url: str, host: str) -> None:
    assert host_of(url) == host


def test_the_longest_address_fits() -> None:
    url = "https://cdn.example.com/".ljust(MAX_URL_CHARS, "x")
    assert host_of(url) == "cdn.example.com"
    with pytest.raises(ReplyError):
        host_of(url + "x")


def test_notices_keep_their_macros_and_lose_what_is_no_address() -> None:
    url = "https://n.example.com/w?p=${AUCTION_PRICE}"
    assert notice_urls(url, None, None) == NoticeUrls(win=url)
    assert notice_urls("", None, url) == NoticeUrls(billing=url)
    assert notice_urls(None, "https://n.example.com/\r\nx", "x" * (MAX_URL_CHARS + 1)) is None


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("Brand.Example.", "brand.example"),
        (" shop.brand.example ", "shop.brand.example"),
        ("b\u00fccher.example", "b\u00fccher.example"),
        ("Alder Bank", None),
        ("https://brand.example/", None),
        ("brand.example:443", None),
        ("a@brand.example", None),
        ("brand", None),
        ("", None),
        ("x" * 300 + ".example", None),
        ("brand\u202e.example", None),
    ],
)
def test_a_domain_is_lower_case_or_none(name: str, domain: str | None) -> None:
    assert domain_of(name) == domain


def test_a_blocked_domain_blocks_those_below_it_alone() -> None:
    blocked = frozenset({"rival.example"})
    assert in_domains("rival.example", blocked)
    assert in_domains("shop.rival.example", blocked)
    assert not in_domains("arrival.example", blocked)
    assert not in_domains("example", blocked)


def read(_: int, offer: str) -> Bid:
    if not offer:
        raise ReplyError(Outcome.CREATIVE_REJECTED, "empty")
    return Bid(bid_id=offer, price_micros=1, currency="USD", ad_id="a")


def test_flawed_offers_stand_beside_usable_ones() -> None:
    answer = gather(["a", "", "b", "a"], read)
    assert [bid.bid_id for bid in answer.bids] == ["a", "b"]
    assert [error.code for error in answer.refused] == [Outcome.CREATIVE_REJECTED, Outcome.INVALID_RESPONSE]


def test_if_all_offers_are_flawed_the_reply_is() -> None:
    with pytest.raises(ReplyError, match="empty"):
        gather(["", ""], read)
    assert gather([], read).bids == ()


def test_offers_are_counted() -> None:
    assert len(gather([str(i) for i in range(MAX_BIDS)], read).bids) == MAX_BIDS
    with pytest.raises(ReplyError, match="at most"):
        gather([str(i) for i in range(MAX_BIDS + 1)], read)
