"""What every adapter promises, run over every folder of `aggregators/` and its JSON cases."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.contract import Adapter, HttpCall, HttpReply, ReplyError
from aggregators.registry import ADAPTERS
from datastreamx.model.auction import Bid, Outcome

from . import adapter_cases as cases

EXEMPLARY = [(name, path) for name in cases.NAMES for path in cases.paths(name, "exemplary")]
ALL = EXEMPLARY + [(name, path) for name in cases.NAMES for path in cases.paths(name, "supplemental")]

Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=12,
)


def _ids(items: list[tuple[str, Path]]) -> list[str]:
    return [f"{name}/{path.parent.name}/{path.stem}" for name, path in items]


def _outcome(adapter: Adapter, call: HttpCall, reply: HttpReply) -> list[Bid] | tuple[Outcome, str]:
    try:
        return adapter.make_bids(call, reply)
    except ReplyError as error:
        return error.code, error.detail


def test_every_folder_with_an_adapter_is_registered_under_its_name() -> None:
    assert sorted(ADAPTERS) == cases.NAMES


@pytest.mark.parametrize("name", cases.NAMES)
def test_adapter_is_documented_and_has_enough_cases(name: str) -> None:
    folder = cases.ROOT / name
    assert (folder / "README.md").read_text().strip()
    assert len(cases.paths(name, "exemplary")) >= 5
    assert len(cases.paths(name, "supplemental")) >= 8
    kinds = {path.parent.name for path in (folder / "cases").rglob("*.json")}
    assert kinds == {"exemplary", "supplemental"}, "a case outside these two folders would never run"


@pytest.mark.parametrize(("name", "path"), EXEMPLARY, ids=_ids(EXEMPLARY))
def test_exemplary_case_checks_the_request_and_has_no_error(name: str, path: Path) -> None:
    case = cases.load(path)
    assert case.exchanges
    for exchange in case.exchanges:
        assert exchange.error is None
        assert exchange.call is not None, f"{name}: an exemplary case shows the request"


@pytest.mark.parametrize(("name", "path"), ALL, ids=_ids(ALL))
def test_case_yields_the_expected_requests(name: str, path: Path) -> None:
    case = cases.load(path)
    adapter = case.adapter(name)
    calls = adapter.make_requests(case.request)
    assert len(calls) == len(case.exchanges)
    for call, exchange in zip(calls, case.exchanges, strict=True):
        assert urlsplit(call.url).netloc == urlsplit(case.config.url).netloc, "only the configured host is called"
        if exchange.call is None:
            continue
        assert (call.method, call.url, dict(call.headers)) == (
            exchange.call.method,
            exchange.call.url,
            exchange.call.headers,
        )
        assert cases.exact_json(call.body) == cases.exact_json(exchange.call.body)


@pytest.mark.parametrize(("name", "path"), ALL, ids=_ids(ALL))
def test_case_yields_the_expected_bids_or_error(name: str, path: Path) -> None:
    case = cases.load(path)
    adapter = case.adapter(name)
    for call, exchange in zip(adapter.make_requests(case.request), case.exchanges, strict=True):
        outcome = _outcome(adapter, call, exchange.reply.as_reply())
        if exchange.error is None:
            assert isinstance(outcome, list), outcome
            assert [cases.plain_bid(bid) for bid in outcome] == [cases.plain_bid(bid) for bid in exchange.bids]
        else:
            assert isinstance(outcome, tuple), outcome
            code, detail = outcome
            assert code.label == exchange.error.code, detail
            assert exchange.error.detail in detail
            assert not exchange.bids, "an error leaves no bids"


@pytest.mark.parametrize(("name", "path"), ALL, ids=_ids(ALL))
def test_both_functions_are_pure_and_leave_their_inputs_alone(name: str, path: Path) -> None:
    case = cases.load(path)
    adapter, twin = case.adapter(name), case.adapter(name)
    request = copy.deepcopy(case.request)
    calls = adapter.make_requests(request)
    assert calls == adapter.make_requests(request) == twin.make_requests(request)
    assert request == case.request
    for call, exchange in zip(calls, case.exchanges, strict=True):
        reply = exchange.reply.as_reply()
        call_before, reply_before = copy.deepcopy(call), copy.deepcopy(reply)
        first = _outcome(adapter, call, reply)
        assert first == _outcome(adapter, call, reply) == _outcome(twin, call, reply)
        assert (call, reply) == (call_before, reply_before)
    if calls:
        # What one caller does to a call must not reach the next.
        for call in calls:
            assert isinstance(call.headers, dict)
            call.headers["x-mutated"] = "1"
        assert all("x-mutated" not in call.headers for call in adapter.make_requests(request))


@pytest.mark.parametrize("name", cases.NAMES)
def test_the_box_key_is_all_that_identifies_a_box(name: str) -> None:
    case = cases.load(cases.paths(name, "exemplary")[0])
    told = {field.name for field in msgspec.structs.fields(cases.CaseRequest)}
    assert "box_id" not in told
    assert "box_key" in told
    (call,) = case.adapter(name).make_requests(case.request)
    assert case.request.box_key in call.url + (call.body or b"").decode()


@pytest.mark.parametrize("name", cases.NAMES)
@settings(deadline=None)
@given(body=st.binary(max_size=400), status=st.sampled_from([200, 204, 302, 400, 500]) | st.integers(100, 599))
def test_arbitrary_bytes_raise_nothing_but_reply_errors(name: str, body: bytes, status: int) -> None:
    adapter, call, _ = cases.some_call(name)
    _outcome(adapter, call, HttpReply(status=status, body=body))


@pytest.mark.parametrize("name", cases.NAMES)
@settings(deadline=None)
@given(document=Json)
def test_arbitrary_json_raises_nothing_but_reply_errors(name: str, document: object) -> None:
    adapter, call, _ = cases.some_call(name)
    _outcome(adapter, call, HttpReply(status=200, body=json.dumps(document).encode()))


@pytest.mark.parametrize("name", cases.NAMES)
@settings(deadline=None)
@given(data=st.data())
def test_a_good_reply_with_one_value_replaced_raises_nothing_but_reply_errors(name: str, data: st.DataObject) -> None:
    adapter, call, reply = cases.some_call(name)
    document = json.loads(reply.body)
    where = data.draw(st.sampled_from(_places(document)))
    mutated = _replace(document, where, data.draw(Json | st.floats() | st.text()))
    outcome = _outcome(adapter, call, HttpReply(status=200, body=json.dumps(mutated).encode()))
    if isinstance(outcome, list):
        for bid in outcome:
            assert isinstance(bid.price_micros, int)
            assert 0 <= bid.price_micros < 2**63
            assert bid.ad_id
            assert bid.bid_id
            assert bid.creative_url is None or bid.creative_url.startswith(("https://", "data:application/xml;base64,"))


@pytest.mark.parametrize("name", cases.NAMES)
@settings(deadline=None)
@given(cut=st.integers(min_value=0))
def test_a_good_reply_cut_short_is_an_invalid_response(name: str, cut: int) -> None:
    adapter, call, reply = cases.some_call(name)
    body = reply.body.strip()
    outcome = _outcome(adapter, call, HttpReply(status=200, body=body[: cut % len(body)]))
    assert isinstance(outcome, tuple)
    assert outcome[0] is Outcome.INVALID_RESPONSE


def _places(document: Any, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of all values in a document, the whole first."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(document, dict):
        items = list(document.items())
    elif isinstance(document, list):
        items = list(enumerate(document))
    return [prefix, *(place for key, value in items for place in _places(value, (*prefix, key)))]


def _replace(document: Any, where: tuple[str | int, ...], value: object) -> Any:
    if not where:
        return value
    changed = copy.copy(document)
    changed[where[0]] = _replace(document[where[0]], where[1:], value)
    return changed
