"""What every adapter promises, run over every folder of `aggregators/` and its JSON cases."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from aggregators import cases
from aggregators.contract import Adapter, Answer, HttpCall, HttpReply, ReplyError
from aggregators.registry import ADAPTERS
from aggregators.replies import host_of
from datastreamx.model.auction import Bid, Outcome
from tests.contracts.hostile import JSON_BODIES, STRINGS, vast_documents

DIALECTS = cases.dialects()
FILES = [(dialect, path) for dialect in DIALECTS for kind in cases.KINDS for path in cases.paths(dialect, kind)]

Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=12,
)
XmlText = st.sampled_from(sorted(STRINGS.values())).filter(str.isprintable) | st.text(
    st.characters(min_codepoint=0x20, exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=40
)


def good_exchanges(dialect: str) -> list[tuple[Adapter, HttpCall, HttpReply]]:
    """An adapter, a call of it and a reply with bids, of every exemplary case that has some."""
    exchanges = []
    for path in cases.paths(dialect, "exemplary"):
        case = cases.load(path)
        if case.exchanges[0].bids:
            adapter = case.adapter(dialect)
            call = adapter.make_requests(case.bid_request())[0]
            exchanges.append((adapter, call, case.exchanges[0].reply.as_reply()))
    return exchanges


GOOD = {dialect: good_exchanges(dialect) for dialect in DIALECTS}


def outcome_of(adapter: Adapter, call: HttpCall, reply: HttpReply) -> Answer | ReplyError:
    try:
        return adapter.make_bids(call, reply)
    except ReplyError as error:
        return error


def check_bid(bid: Bid) -> None:
    """What the core may rely on without looking."""
    assert isinstance(bid.price_micros, int)
    assert 0 <= bid.price_micros < 2**63
    assert 0 < len(bid.bid_id) <= 512
    assert 0 < len(bid.ad_id) <= 256
    assert bid.duration_ms is None or 0 < bid.duration_ms <= 360_000_000
    assert bid.advertiser_domain is None or bid.advertiser_domain == bid.advertiser_domain.lower()
    if bid.creative_url is None:
        assert not bid.creative_hosts
    elif bid.creative_url.startswith("data:application/xml;base64,"):
        assert bid.creative_hosts
    else:
        assert bid.creative_hosts == (host_of(bid.creative_url),)
    # It goes into a JSON record and must survive the way.
    assert msgspec.json.decode(msgspec.json.encode(bid), type=Bid) == bid


def test_every_folder_with_an_adapter_is_registered_under_its_name() -> None:
    assert sorted(ADAPTERS) == DIALECTS


@pytest.mark.parametrize("dialect", DIALECTS)
def test_adapter_is_documented_and_has_enough_cases(dialect: str) -> None:
    assert cases.check_folder(dialect) == []


@pytest.mark.parametrize(
    ("dialect", "path"), FILES, ids=[f"{dialect}/{path.parent.name}/{path.stem}" for dialect, path in FILES]
)
def test_case_passes(dialect: str, path: Path) -> None:
    failures = cases.run_file(dialect, path)
    assert not failures, "\n\n".join(failures)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_box_key_is_all_that_identifies_a_box(dialect: str) -> None:
    told = {field.name for field in msgspec.structs.fields(cases.CaseRequest)}
    assert "box_id" not in told
    case = cases.load(cases.paths(dialect, "exemplary")[0])
    adapter, request = case.adapter(dialect), case.bid_request()
    assert request.box_key is not None
    for key in (request.box_key, None):
        (call,) = adapter.make_requests(msgspec.structs.replace(request, box_key=key))
        sent = call.url + (call.body or b"").decode()
        assert (request.box_key in sent) is (key is not None)


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(deadline=None)
@given(body=st.binary(max_size=400), status=st.sampled_from([200, 204, 302, 400, 500]) | st.integers(100, 599))
def test_arbitrary_bytes_raise_nothing_but_reply_errors(dialect: str, body: bytes, status: int) -> None:
    adapter, call, _ = GOOD[dialect][0]
    outcome = outcome_of(adapter, call, HttpReply(status=status, body=body))
    assert not isinstance(outcome, ReplyError) or outcome.detail


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(deadline=None)
@given(document=Json)
def test_arbitrary_json_raises_nothing_but_reply_errors(dialect: str, document: object) -> None:
    adapter, call, _ = GOOD[dialect][0]
    outcome_of(adapter, call, HttpReply(status=200, body=json.dumps(document).encode()))


@pytest.mark.parametrize("name", JSON_BODIES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_hostile_body_never_becomes_a_bid(dialect: str, name: str) -> None:
    adapter, call, _ = GOOD[dialect][0]
    outcome = outcome_of(adapter, call, HttpReply(status=200, body=JSON_BODIES[name]))
    assert isinstance(outcome, ReplyError) or not outcome.bids
    if isinstance(outcome, ReplyError):
        assert len(outcome.detail) < 300


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_hostile_document_never_becomes_a_bid(dialect: str) -> None:
    adapter, call, _ = GOOD[dialect][0]
    for name, document in vast_documents().items():
        outcome = outcome_of(adapter, call, HttpReply(status=200, body=document))
        assert isinstance(outcome, ReplyError), name


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_good_reply_with_one_value_replaced_is_refused_or_still_sound(dialect: str, data: st.DataObject) -> None:
    adapter, call, reply = data.draw(st.sampled_from(GOOD[dialect]))
    change = _one_xml_value if _is_xml(reply.body) else _one_json_value
    outcome = outcome_of(adapter, call, HttpReply(status=200, body=change(reply.body, data)))
    for bid in outcome.bids if isinstance(outcome, Answer) else ():
        check_bid(bid)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_hostile_string_anywhere_in_a_good_reply_does_harm(dialect: str) -> None:
    adapter, call, reply = GOOD[dialect][0]
    bodies = [body for text in STRINGS.values() for body in _every_text_replaced(reply.body, text)]
    assert len(bodies) > len(STRINGS)
    for body in bodies:
        outcome = outcome_of(adapter, call, HttpReply(status=200, body=body))
        for bid in outcome.bids if isinstance(outcome, Answer) else ():
            check_bid(bid)


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(deadline=None)
@given(cut=st.integers(min_value=0))
def test_a_good_reply_cut_short_is_an_invalid_response(dialect: str, cut: int) -> None:
    adapter, call, reply = GOOD[dialect][0]
    body = reply.body.strip()
    outcome = outcome_of(adapter, call, HttpReply(status=200, body=body[: cut % len(body)]))
    assert isinstance(outcome, ReplyError)
    assert outcome.code is Outcome.INVALID_RESPONSE


@pytest.mark.parametrize("dialect", DIALECTS)
def test_of_a_key_that_comes_twice_the_last_counts(dialect: str) -> None:
    blank = {str: "XXX", int: 1, float: 1.5, list: []}
    for adapter, call, reply in GOOD[dialect]:
        if reply.body.startswith(b"{"):
            first = json.dumps({key: blank[type(value)] for key, value in json.loads(reply.body).items()})
            twice = first.encode()[:-1] + b"," + reply.body.strip()[1:]
            assert outcome_of(adapter, call, HttpReply(status=200, body=twice)) == outcome_of(adapter, call, reply)


def _is_xml(body: bytes) -> bool:
    return body.lstrip().startswith(b"<")


def _one_json_value(body: bytes, data: st.DataObject) -> bytes:
    document = json.loads(body)
    where = data.draw(st.sampled_from(_places(document)))
    value = data.draw(Json | st.floats() | st.text() | st.sampled_from(sorted(STRINGS.values())))
    return json.dumps(_replace(document, where, value)).encode()


def _one_xml_value(body: bytes, data: st.DataObject) -> bytes:
    root = etree.fromstring(body)
    node = data.draw(st.sampled_from(list(root.iter())))
    keys = [None, *node.attrib]
    key = data.draw(st.sampled_from(keys))
    value = data.draw(XmlText)
    if key is None:
        node.text = value
    else:
        node.set(key, value)
    changed: bytes = etree.tostring(root)
    return changed


def _every_text_replaced(body: bytes, text: str) -> list[bytes]:
    if not _is_xml(body):
        document = json.loads(body)
        places = [place for place in _places(document) if isinstance(_at(document, place), str)]
        return [json.dumps(_replace(document, place, text)).encode() for place in places]
    root = etree.fromstring(body)
    count = sum(1 for _ in root.iter())
    bodies = []
    for position in range(count):
        changed = copy.deepcopy(root)
        try:
            list(changed.iter())[position].text = text
        except ValueError:
            # XML has no way to write it.
            continue
        bodies.append(etree.tostring(changed))
    return bodies


def _places(document: Any, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of all values in a document, the whole first."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(document, dict):
        items = list(document.items())
    elif isinstance(document, list):
        items = list(enumerate(document))
    return [prefix, *(place for key, value in items for place in _places(value, (*prefix, key)))]


def _at(document: Any, where: tuple[str | int, ...]) -> Any:
    for key in where:
        document = document[key]
    return document


def _replace(document: Any, where: tuple[str | int, ...], value: object) -> Any:
    if not where:
        return value
    changed = copy.copy(document)
    changed[where[0]] = _replace(document[where[0]], where[1:], value)
    return changed
