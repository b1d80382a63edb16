"""The case runner finds what it is there to find, and says it so that one can act on it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aggregators import cases
from aggregators.contract import Adapter, Answer, HttpCall, HttpReply, ReplyError
from datastreamx.errors import ConfigError
from datastreamx.model.auction import Bid, BidRequest, NoticeUrls, Outcome

CASE: dict[str, Any] = {
    "about": "A dialect of one line.",
    "config": {"url": "https://ads.example/bid"},
    "request": {
        "auction_id": "3b1f0e6a9c2d4875a1e0f3c4b5d60718",
        "box_key": "8d5e2c1f7a904b36ad0c9e8f71625340",
        "trigger": "dwell",
        "opportunity_ms": 1,
        "channel_id": "ch17",
        "last_channel_id": None,
        "last_ad_id": None,
        "break_id": None,
        "slot_ms": 30_000,
        "tmax_ms": 250,
        "floor_micros": 0,
        "currency": "USD",
    },
    "exchanges": [
        {
            "call": {
                "method": "POST",
                "url": "https://ads.example/bid",
                "headers": {"accept": "application/json"},
                "body": {"tmax": 250},
            },
            "reply": {"body": {"price": 9.5}},
            "bids": [{"bid_id": "b", "price_micros": 9_500_000, "currency": "USD", "ad_id": "a"}],
        }
    ],
}


class OneLine:
    """A correct adapter; each test replaces one thing."""

    def make_requests(self, request: BidRequest) -> list[HttpCall]:
        body = b'{"tmax":%d}' % request.tmax_ms
        url = "https://ads.example/bid"
        return [HttpCall(method="POST", url=url, headers={"accept": "application/json"}, body=body)]

    def make_bids(self, call: HttpCall, reply: HttpReply) -> Answer:
        del call
        if reply.status != 200:
            raise ReplyError(Outcome.ERROR, f"status {reply.status}")
        price = json.loads(reply.body)["price"]
        return Answer((Bid(bid_id="b", price_micros=int(price * 1_000_000), currency="USD", ad_id="a"),))


def changed(**parts: Any) -> dict[str, Any]:
    return {**CASE, "exchanges": [{**CASE["exchanges"][0], **parts}]}


def decoded(document: dict[str, Any]) -> cases.Case:
    return msgspec.json.decode(json.dumps(document), type=cases.Case)


def failures(adapter: Adapter, document: dict[str, Any] = CASE, twin: Adapter | None = None) -> list[str]:
    return cases.run_case(adapter, twin or adapter, decoded(document))


def only_failure(adapter: Adapter, document: dict[str, Any] = CASE, twin: Adapter | None = None) -> str:
    (failure,) = failures(adapter, document, twin)
    return failure


def test_a_correct_adapter_passes() -> None:
    assert failures(OneLine()) == []


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("method", "GET", "call's method"),
        ("url", "https://ads.example/other", "call's url"),
        ("headers", {}, "call's headers"),
        ("body", {"tmax": 251}, "call's body"),
        ("body", None, "call's body"),
    ],
)
def test_another_call_than_expected_is_a_failure_with_both_sides(part: str, value: object, told: str) -> None:
    failure = only_failure(OneLine(), changed(call={**CASE["exchanges"][0]["call"], part: value}))
    assert told in failure
    assert "\n-" in failure
    assert "\n+" in failure


def test_numbers_of_a_body_are_compared_exactly() -> None:
    class Float(OneLine):
        def make_requests(self, request: BidRequest) -> list[HttpCall]:
            (call,) = super().make_requests(request)
            return [msgspec.structs.replace(call, body=b'{"tmax":250.0000000000000000001}')]

    assert "call's body" in only_failure(Float())


@pytest.mark.parametrize(
    "parts",
    [
        {"bids": []},
        {"bids": [{**CASE["exchanges"][0]["bids"][0], "price_micros": 9_500_001}]},
        {"bids": [{**CASE["exchanges"][0]["bids"][0], "notices": {"win": "https://n.example/"}}]},
        {"no_bid_reason": 2},
        {"refused": [{"code": "error", "detail": ""}]},
        {"bids": [], "error": {"code": "error", "detail": ""}},
    ],
)
def test_another_answer_than_expected_is_a_failure(parts: dict[str, Any]) -> None:
    assert "the answer is not as expected" in only_failure(OneLine(), changed(**parts))


def test_an_error_matches_by_code_and_a_part_of_its_message() -> None:
    reply = {"status": 500}
    match = {"reply": reply, "bids": [], "error": {"code": "error", "detail": "500"}}
    assert failures(OneLine(), changed(**match)) == []
    for error in ({"code": "timeout", "detail": "500"}, {"code": "error", "detail": "404"}):
        failure = only_failure(OneLine(), changed(**{**match, "error": error}))
        assert "status 500" in failure


def test_a_refused_bid_matches_likewise() -> None:
    class Refuses(OneLine):
        def make_bids(self, call: HttpCall, reply: HttpReply) -> Answer:
            errors = (ReplyError(Outcome.BELOW_FLOOR, "too little"),)
            return msgspec.structs.replace(super().make_bids(call, reply), refused=errors)

    assert failures(Refuses(), changed(refused=[{"code": "below_floor", "detail": "little"}])) == []
    assert "too little" in only_failure(Refuses(), changed(refused=[{"code": "below_floor", "detail": "much"}]))
    assert "too little" in only_failure(Refuses())


def test_a_number_of_calls_other_than_exchanges_is_a_failure() -> None:
    class Silent(OneLine):
        def make_requests(self, request: BidRequest) -> list[HttpCall]:
            del request
            return []

    assert "0 calls" in only_failure(Silent())


def test_a_host_that_nobody_configured_is_a_failure() -> None:
    class Elsewhere(OneLine):
        def make_requests(self, request: BidRequest) -> list[HttpCall]:
            (call,) = super().make_requests(request)
            return [msgspec.structs.replace(call, url="https://elsewhere.example/bid")]

    told = failures(Elsewhere(), changed(call=None))
    assert told == ["calls 'elsewhere.example'; only the configured host may be called"]


def _changes_request(request: BidRequest, call: HttpCall, reply: HttpReply) -> None:
    del call, reply
    msgspec.structs.force_setattr(request, "slot_ms", 0)


def _changes_blocks(request: BidRequest, call: HttpCall, reply: HttpReply) -> None:
    del call, reply
    msgspec.structs.force_setattr(request, "blocked_advertisers", ["x"])


def _changes_call(request: BidRequest, call: HttpCall, reply: HttpReply) -> None:
    del request, reply
    assert isinstance(call.headers, dict)
    call.headers["x-seen"] = "1"


def _changes_reply(request: BidRequest, call: HttpCall, reply: HttpReply) -> None:
    del request, call
    assert isinstance(reply.headers, dict)
    reply.headers["x-seen"] = "1"


@pytest.mark.parametrize("change", [_changes_request, _changes_blocks, _changes_call, _changes_reply])
def test_an_adapter_that_changes_its_input_is_caught(
    change: Callable[[BidRequest, HttpCall, HttpReply], None],
) -> None:
    class Changes(OneLine):
        def make_requests(self, request: BidRequest) -> list[HttpCall]:
            calls = super().make_requests(request)
            if change in {_changes_request, _changes_blocks}:
                change(request, calls[0], HttpReply(status=200))
            return calls

        def make_bids(self, call: HttpCall, reply: HttpReply) -> Answer:
            answer = super().make_bids(call, reply)
            if change in {_changes_call, _changes_reply}:
                change(cases.load(PRICED).bid_request(), call, reply)
            return answer

    assert "changed its" in "\n".join(failures(Changes()))


PRICED = cases.paths("vasttag", "exemplary")[0]


def test_an_adapter_that_remembers_is_caught() -> None:
    class Counts(OneLine):
        def __init__(self) -> None:
            self.numbers = itertools.count(1)

        def make_bids(self, call: HttpCall, reply: HttpReply) -> Answer:
            bids = super().make_bids(call, reply).bids
            return Answer(tuple(msgspec.structs.replace(bid, price_micros=next(self.numbers)) for bid in bids))

    assert "make_bids is not pure" in failures(Counts())[0]


def test_an_adapter_that_differs_from_its_twin_is_caught() -> None:
    class Unique(OneLine):
        def make_requests(self, request: BidRequest) -> list[HttpCall]:
            (call,) = super().make_requests(request)
            return [msgspec.structs.replace(call, headers={**call.headers, "x-self": str(id(self))})]

    document = changed(call=None)
    assert "make_requests is not pure" in only_failure(Unique(), document, Unique())


def test_an_adapter_that_answers_otherwise_than_its_twin_is_caught() -> None:
    class Named(OneLine):
        def make_bids(self, call: HttpCall, reply: HttpReply) -> Answer:
            bids = super().make_bids(call, reply).bids
            return Answer(tuple(msgspec.structs.replace(bid, ad_id=str(id(self))) for bid in bids))

    assert "make_bids is not pure" in failures(Named(), twin=Named())[0]


def test_headers_that_calls_share_are_caught() -> None:
    class Shares(OneLine):
        headers: dict[str, str] = {"accept": "application/json"}  # noqa: RUF012  the fault under test

        def make_requests(self, request: BidRequest) -> list[HttpCall]:
            (call,) = super().make_requests(request)
            return [HttpCall(method="POST", url=call.url, headers=self.headers, body=call.body)]

    assert only_failure(Shares()) == "calls share their headers; make a new mapping for each"


@pytest.mark.parametrize(
    "path",
    [
        (),
        ("config",),
        ("request",),
        ("request", "consent"),
        ("exchanges", 0),
        ("exchanges", 0, "call"),
        ("exchanges", 0, "reply"),
        ("exchanges", 0, "bids", 0),
        ("exchanges", 0, "bids", 0, "notices"),
    ],
)
def test_a_misspelt_key_is_an_error_wherever_it_stands(path: tuple[str | int, ...], tmp_path: Path) -> None:
    document: Any = json.loads(json.dumps(CASE))
    document["request"]["consent"] = {"history": True}
    document["exchanges"][0]["bids"][0]["notices"] = {"win": "https://n.example/"}
    file = tmp_path / "case.json"
    file.write_text(json.dumps(document))
    assert cases.load(file).exchanges[0].bids[0].notices == cases.CaseNotices(win="https://n.example/")
    place = document
    for key in path:
        place = place[key]
    place["misspelt"] = 1
    file.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="misspelt") as caught:
        cases.load(file)
    assert str(file) in str(caught.value)


def test_an_adapter_gets_the_very_types_that_the_core_uses() -> None:
    document = {
        **CASE,
        "request": {**CASE["request"], "consent": {"history": True}, "blocked_advertisers": ["a.example"]},
    }
    request = decoded(document).bid_request()
    assert type(request) is BidRequest
    assert type(request.consent).__name__ == "Consent"
    assert request.blocked_advertisers == ("a.example",)
    assert msgspec.structs.fields(cases.CaseNotices) == msgspec.structs.fields(NoticeUrls)


def folder_with(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = tmp_path / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_dialect_without_documentation_or_cases_is_told_what_is_missing(tmp_path: Path) -> None:
    root = folder_with(
        tmp_path, {"adapter.py": "", "README.md": "  \n", "cases/typical/a.json": "{}", "cases/b.json": "{}"}
    )
    assert cases.dialects(root) == ["new"]
    told = "\n".join(cases.check_folder("new", root))
    assert "new/README.md is missing" in told
    assert "exemplary has 0 cases, at least 5" in told
    assert "supplemental has 0 cases, at least 8" in told
    assert "new/cases/typical/a.json would never run" in told
    assert "new/cases/b.json would never run" in told


def test_an_exemplary_case_shows_its_request_and_has_no_error(tmp_path: Path) -> None:
    document = changed(call=None, bids=[], error={"code": "invalid_response", "detail": ""})
    document["config"] = {"url": "https://ads.example/bid"}
    root = folder_with(tmp_path, {"cases/exemplary/a.json": json.dumps(document)})
    told = "\n".join(cases.run_file("simple", root / "new/cases/exemplary/a.json"))
    assert "has no errors" in told
    assert "shows its request" in told


def test_the_whole_run_of_a_dialect_names_every_case_and_its_failures(tmp_path: Path) -> None:
    results = cases.run_dialect("simple")
    assert set(results) == {"folder"} | {
        f"{kind}/{path.stem}" for kind in cases.KINDS for path in cases.paths("simple", kind)
    }
    assert not any(results.values())
    root = folder_with(
        tmp_path, {"cases/supplemental/broken.json": "{", "cases/supplemental/other.json": json.dumps(CASE)}
    )
    broken = cases.run_dialect("new", root)
    assert "no case" in broken["supplemental/broken"][0]
    assert "unknown adapter 'new'" in broken["supplemental/other"][0]
