"""The JSON cases beside each adapter: their form, and where they are."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

import aggregators
from aggregators.contract import Adapter, HttpCall, HttpReply
from aggregators.registry import build_adapter
from datastreamx.config import AggregatorConfig
from datastreamx.model.auction import Bid, BidRequest

ROOT = Path(aggregators.__file__).parent
NAMES = sorted(adapter.parent.name for adapter in ROOT.glob("*/adapter.py"))


# msgspec reads `Raw | None` as null alone.
NO_BODY = msgspec.Raw(b"null")


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A misspelt key is an error, else a case could stop checking what it says."""


class CaseConfig(_Strict, frozen=True, kw_only=True):
    url: str
    options: dict[str, str | int | bool] = {}


class CaseRequest(BidRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class CaseBid(Bid, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ExpectedCall(_Strict, frozen=True, kw_only=True):
    """`body` is compared as JSON with exact numbers; null is no body."""

    method: str
    url: str
    headers: dict[str, str]
    body: msgspec.Raw = NO_BODY


class MockReply(_Strict, frozen=True, kw_only=True):
    """The body is `body` as written there, or `text` `repeat` times, or the bytes in `hex`."""

    status: int = 200
    headers: dict[str, str] = {}
    body: msgspec.Raw = NO_BODY
    text: str = ""
    repeat: int = 1
    hex: str = ""

    def as_reply(self) -> HttpReply:
        if bytes(self.body) != bytes(NO_BODY):
            return HttpReply(status=self.status, headers=dict(self.headers), body=bytes(self.body))
        body = bytes.fromhex(self.hex) if self.hex else self.text.encode() * self.repeat
        return HttpReply(status=self.status, headers=dict(self.headers), body=body)


class ExpectedError(_Strict, frozen=True, kw_only=True):
    """`code` is the label of an outcome, `detail` a part of the message."""

    code: str
    detail: str


class Exchange(_Strict, frozen=True, kw_only=True):
    """One call, its reply and what follows from it; `call` `None` leaves the request to the exemplary cases."""

    reply: MockReply
    call: ExpectedCall | None = None
    bids: tuple[CaseBid, ...] = ()
    error: ExpectedError | None = None


class Case(_Strict, frozen=True, kw_only=True):
    about: str
    config: CaseConfig
    request: CaseRequest
    exchanges: tuple[Exchange, ...]

    def adapter(self, name: str) -> Adapter:
        return build_adapter(
            AggregatorConfig(name="under-test", adapter=name, url=self.config.url, options=dict(self.config.options))
        )


_CASE = msgspec.json.Decoder(Case)


def paths(name: str, kind: str) -> list[Path]:
    return sorted((ROOT / name / "cases" / kind).glob("*.json"))


def load(path: Path) -> Case:
    return _CASE.decode(path.read_bytes())


def plain_bid(bid: Bid) -> dict[str, Any]:
    """Fields of a bid, because a case's bid is a subclass and would not compare equal."""
    return msgspec.structs.asdict(bid)


def exact_json(body: bytes | msgspec.Raw | None) -> object:
    """JSON with numbers as decimals, so that 9.5 and 9.50000001 differ and 1 and 1.0 do not."""
    return None if body is None else json.loads(bytes(body), parse_float=Decimal, parse_int=Decimal)


def some_call(name: str) -> tuple[Adapter, HttpCall, HttpReply]:
    """An adapter, a call of it and the reply of its first exemplary case."""
    case = load(paths(name, "exemplary")[0])
    adapter = case.adapter(name)
    return adapter, adapter.make_requests(case.request)[0], case.exchanges[0].reply.as_reply()
