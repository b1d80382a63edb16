"""The JSON cases beside each adapter: their form, and a runner that says in words what a case does not find.

A case is a golden record of what a partner receives, and of what becomes of what it answers. The runner is pure but
for reading the files; tests and `datastreamx aggregator test` share it.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec

import aggregators
from aggregators.contract import Adapter, Answer, HttpCall, HttpReply, ReplyError
from aggregators.registry import build_adapter
from datastreamx.config import AggregatorConfig
from datastreamx.errors import ConfigError
from datastreamx.model.auction import Bid, BidRequest, NoticeUrls
from datastreamx.model.events import Consent

ROOT = Path(aggregators.__file__).parent
MIN_EXEMPLARY = 5
MIN_SUPPLEMENTAL = 8

Kind = Literal["exemplary", "supplemental"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# msgspec reads `Raw | None` as null alone.
_NO_BODY = msgspec.Raw(b"null")


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A misspelt key is an error, else a case could stop checking what it says."""


class CaseConfig(_Strict, frozen=True, kw_only=True):
    """What of `[[aggregators]]` an adapter sees."""

    url: str
    options: dict[str, str | int | bool] = {}


class CaseConsent(Consent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `Consent`, strict."""


class CaseRequest(BidRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `BidRequest`, strict."""

    consent: CaseConsent | None = None


class CaseNotices(NoticeUrls, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`NoticeUrls`, strict."""


class CaseBid(Bid, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `Bid`, strict."""

    notices: CaseNotices | None = None


class ExpectedCall(_Strict, frozen=True, kw_only=True):
    """`body` is compared as JSON with exact numbers; null is no body."""

    method: str
    url: str
    headers: dict[str, str]
    body: msgspec.Raw = _NO_BODY


class MockReply(_Strict, frozen=True, kw_only=True):
    """The body is `body` as written there, or `text` (a list: its lines) `repeat` times, or the bytes in `hex`."""

    status: int = 200
    headers: dict[str, str] = {}
    body: msgspec.Raw = _NO_BODY
    text: str | list[str] = ""
    encoding: str = "utf-8"
    repeat: int = 1
    hex: str = ""

    def as_reply(self) -> HttpReply:
        """The reply as the core would hand it on."""
        if bytes(self.body) != bytes(_NO_BODY):
            return HttpReply(status=self.status, headers=dict(self.headers), body=bytes(self.body))
        text = self.text if isinstance(self.text, str) else "\n".join(self.text)
        body = bytes.fromhex(self.hex) if self.hex else text.encode(self.encoding) * self.repeat
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
    no_bid_reason: int | None = None
    refused: tuple[ExpectedError, ...] = ()
    error: ExpectedError | None = None


class Case(_Strict, frozen=True, kw_only=True):
    """One case file."""

    about: str
    config: CaseConfig
    request: CaseRequest
    exchanges: tuple[Exchange, ...]

    def adapter(self, dialect: str) -> Adapter:
        """An adapter as the case configures it.

        Raises:
            ConfigError: The dialect does not exist, or the options are wrong.
        """
        return build_adapter(
            AggregatorConfig(name="under-test", adapter=dialect, url=self.config.url, options=dict(self.config.options))
        )

    def bid_request(self) -> BidRequest:
        """The request as the core would build it: of the very types that an adapter gets."""
        return msgspec.convert(_values(self.request), BidRequest)


_CASE = msgspec.json.Decoder(Case)


def dialects(root: Path = ROOT) -> list[str]:
    """Folders with an adapter."""
    return sorted(adapter.parent.name for adapter in root.glob("*/adapter.py"))


def paths(dialect: str, kind: Kind, root: Path = ROOT) -> list[Path]:
    """Case files of one kind, in the order of their names."""
    return sorted((root / dialect / "cases" / kind).glob("*.json"))


def load(path: Path) -> Case:
    """Read a case.

    Raises:
        ConfigError: It is no case: names the file and what is wrong.
    """
    try:
        return _CASE.decode(path.read_bytes())
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise ConfigError(str(path), [f"no case: {error}"]) from None


def run_dialect(dialect: str, root: Path = ROOT) -> dict[str, list[str]]:
    """What is wrong with a folder and with each of its cases.

    Returns:
        Failures by `KIND/NAME` of every case, and by `folder`; an empty list is a pass.
    """
    results = {"folder": check_folder(dialect, root)}
    for kind in KINDS:
        for path in paths(dialect, kind, root):
            results[f"{kind}/{path.stem}"] = run_file(dialect, path)
    return results


def check_folder(dialect: str, root: Path = ROOT) -> list[str]:
    """Whether a dialect is documented and has enough cases, all of them where they run."""
    folder = root / dialect
    failures = []
    readme = folder / "README.md"
    if not (readme.is_file() and readme.read_text(encoding="utf-8").strip()):
        failures.append(f"{dialect}/README.md is missing: write the dialect down, it is what the adapter is checked by")
    for kind, least in zip(KINDS, (MIN_EXEMPLARY, MIN_SUPPLEMENTAL), strict=True):
        count = len(paths(dialect, kind, root))
        if count < least:
            failures.append(f"{dialect}/cases/{kind} has {count} cases, at least {least} are needed")
    strays = [path for path in (folder / "cases").rglob("*") if path.is_file() and not _runs(path, folder)]
    failures += [f"{path.relative_to(root)} would never run; cases are cases/KIND/NAME.json" for path in sorted(strays)]
    return failures


def run_file(dialect: str, path: Path) -> list[str]:
    """Load a case and run it; a file that is no case is a failure too."""
    kind = path.parent.name
    try:
        case = load(path)
        rules = _exemplary_failures(case) if kind == "exemplary" else []
        return rules + run_case(case.adapter(dialect), case.adapter(dialect), case)
    except ConfigError as error:
        return error.problems


def run_case(adapter: Adapter, twin: Adapter, case: Case) -> list[str]:
    """Failures of one case, each readable by itself; none is a pass.

    Beside what the case expects, both functions must be pure: the same for the same, whoever asks, and inputs stay as
    they were.

    Args:
        adapter: Under test.
        twin: Another one of the same configuration.
        case: As loaded.
    """
    request = case.bid_request()
    before = copy.deepcopy(request)
    calls = adapter.make_requests(request)
    failures = []
    # Compared as JSON: an adapter that changed a field may have made a value of another type.
    if msgspec.json.encode(request) != msgspec.json.encode(before):
        failures.append(_differ("make_requests changed its request", before, request))
    if calls != adapter.make_requests(copy.deepcopy(before)) or calls != twin.make_requests(copy.deepcopy(before)):
        failures.append("make_requests is not pure: the same request gave other calls")
    failures += _shared_headers(adapter, before, calls)
    if len(calls) != len(case.exchanges):
        return [*failures, f"{len(calls)} calls were made, the case has {len(case.exchanges)} exchanges"]
    for call, exchange in zip(calls, case.exchanges, strict=True):
        failures += _call_failures(call, exchange.call, case.config.url)
        failures += _reply_failures(adapter, twin, call, exchange)
    return failures


def _exemplary_failures(case: Case) -> list[str]:
    failures = [] if case.exchanges else ["an exemplary case has an exchange"]
    for exchange in case.exchanges:
        if exchange.error is not None or exchange.refused:
            failures.append("an exemplary case has no errors; move it to supplemental")
        if exchange.call is None:
            failures.append("an exemplary case shows its request; add `call`")
    return failures


def _shared_headers(adapter: Adapter, request: BidRequest, calls: Sequence[HttpCall]) -> list[str]:
    """What one caller does to a call must not reach the next."""
    for call in calls:
        if isinstance(call.headers, dict):
            call.headers["x-mutated"] = "1"
    shared = any("x-mutated" in call.headers for call in adapter.make_requests(request))
    for call in calls:
        if isinstance(call.headers, dict):
            del call.headers["x-mutated"]
    return ["calls share their headers; make a new mapping for each"] if shared else []


def _call_failures(call: HttpCall, expected: ExpectedCall | None, url: str) -> list[str]:
    failures = []
    if urlsplit(call.url).netloc != urlsplit(url).netloc:
        failures.append(f"calls {urlsplit(call.url).netloc!r}; only the configured host may be called")
    if expected is None:
        return failures
    for part in ("method", "url", "headers"):
        wanted, found = getattr(expected, part), getattr(call, part)
        if wanted != (dict(found) if part == "headers" else found):
            failures.append(_differ(f"the call's {part} is not as expected", wanted, found))
    try:
        found_body = None if call.body is None else _exact(call.body)
    except (ValueError, RecursionError) as error:
        return [*failures, f"the call's body is no JSON: {error}"]
    if _exact(expected.body) != found_body:
        failures.append(_differ("the call's body is not as expected", _exact(expected.body), found_body))
    return failures


def _reply_failures(adapter: Adapter, twin: Adapter, call: HttpCall, exchange: Exchange) -> list[str]:
    reply = exchange.reply.as_reply()
    call_before, reply_before = copy.deepcopy(call), copy.deepcopy(reply)
    found = _plain(adapter, call, reply)
    failures = []
    if call != call_before or reply != reply_before:
        failures.append("make_bids changed its call or its reply")
    if found != _plain(adapter, call_before, reply_before) or found != _plain(twin, call_before, reply_before):
        failures.append("make_bids is not pure: the same reply gave another answer")
    return failures + _answer_failures(exchange, found)


def _answer_failures(exchange: Exchange, found: dict[str, Any]) -> list[str]:
    errors = [] if exchange.error is None else [exchange.error]
    wanted = {
        "bids": _values(exchange.bids),
        "no_bid_reason": exchange.no_bid_reason,
        "refused": _values(exchange.refused),
        "error": _values(errors),
    }
    # A case names a part of each message; where it is found, it stands for the whole.
    matched = dict(found)
    for part, expected in (("refused", exchange.refused), ("error", errors)):
        if len(expected) == len(found[part]):
            pairs = zip(expected, found[part], strict=True)
            matched[part] = [
                _values(want) if want.code == have["code"] and want.detail in have["detail"] else have
                for want, have in pairs
            ]
    return [] if matched == wanted else [_differ("the answer is not as expected", wanted, matched)]


def _plain(adapter: Adapter, call: HttpCall, reply: HttpReply) -> dict[str, Any]:
    """An answer or an error as plain values, because errors do not compare and a case's bid is a subclass."""
    answer, errors = Answer(), []
    try:
        answer = adapter.make_bids(call, reply)
    except ReplyError as error:
        errors = [_plain_error(error)]
    return {
        "bids": _values(answer.bids),
        "no_bid_reason": answer.no_bid_reason,
        "refused": [_plain_error(error) for error in answer.refused],
        "error": errors,
    }


def _plain_error(error: ReplyError) -> dict[str, str]:
    return {"code": error.code.label, "detail": error.detail}


def _values(value: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def _exact(body: bytes | msgspec.Raw) -> Any:
    """JSON with numbers as decimals, so that 9.5 and 9.50000001 differ and 1 and 1.0 do not."""
    return json.loads(bytes(body), parse_float=Decimal, parse_int=Decimal)


def _differ(what: str, wanted: object, found: object) -> str:
    lines = difflib.unified_diff(_lines(wanted), _lines(found), "expected", "found", lineterm="", n=2)
    return "\n".join((what, *lines))


def _lines(value: object) -> list[str]:
    encoded = msgspec.json.encode(value, order="sorted", enc_hook=str)
    return msgspec.json.format(encoded, indent=2).decode().splitlines()


def _runs(path: Path, folder: Path) -> bool:
    return path.suffix == ".json" and path.parent.parent == folder / "cases" and path.parent.name in KINDS
