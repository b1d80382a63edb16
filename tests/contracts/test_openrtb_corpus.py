"""Requests and replies of real bidders: none crashes the codec, and what is refused has a reason."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aggregators.contract import HttpCall, HttpReply, ReplyError
from aggregators.openrtb.adapter import OpenRtbAdapter
from aggregators.openrtb.messages import BidRequestMessage
from aggregators.openrtb.options import OpenRtbOptions

CORPUS = Path(__file__).parents[3] / "shared" / "data" / "openrtb"

pytestmark = pytest.mark.skipif(
    not CORPUS.is_dir(), reason="the corpus of OpenRTB messages is not beside this checkout"
)

ADAPTER = OpenRtbAdapter("https://rtb.example/bid", OpenRtbOptions(publisher_id="p", app_bundle="b"))


def _lines(name: str) -> Iterator[dict[str, Any]]:
    with (CORPUS / name).open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def test_requests_are_read_or_refused_and_survive_a_round_trip() -> None:
    decoder = msgspec.json.Decoder(BidRequestMessage)
    encoder = msgspec.json.Encoder(decimal_format="number")
    counts: Counter[str] = Counter()
    for line in _lines("requests.ndjson"):
        try:
            message = decoder.decode(json.dumps(line["request"]))
        except msgspec.ValidationError as error:
            counts["refused: " + str(error).split(" - at")[0]] += 1
            continue
        assert decoder.decode(encoder.encode(message)) == message, line["case"]
        counts["read"] += 1
    print("requests:", dict(counts))  # noqa: T201  the counts are what a reader of the test wants to see
    # Only requests with a video impression are ours to read; the rest of the corpus is banners, audio and native.
    assert counts["read"] >= 150
    assert counts["refused: Object missing required field `video`"] >= 400


def test_replies_give_bids_or_a_reason() -> None:
    asked = {line["case"]: line["request"] for line in _lines("requests.ndjson")}
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for line in _lines("responses.ndjson"):
        body = line["body"]
        call = _call_answered_by(body, asked.get(line["case"]))
        raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        try:
            answer = ADAPTER.make_bids(call, HttpReply(status=line["status"], body=raw))
        except ReplyError as error:
            counts[error.code.label if error.detail else "refused without a detail"] += 1
            reasons[f"{error.code.label}: {_kind(error.detail)}"] += 1
        else:
            counts["bids" if answer.bids else "no bid"] += 1
            reasons.update(f"{error.code.label}, beside bids: {_kind(error.detail)}" for error in answer.refused)
            for bid in answer.bids:
                assert 0 < bid.price_micros < 10**12, line["case"]
                assert (bid.creative_url is None) == (not bid.creative_hosts), line["case"]
    print("replies:", dict(counts))  # noqa: T201  the counts are what a reader of the test wants to see
    for reason, count in reasons.most_common():
        print(f"{count:6} {reason}")  # noqa: T201  likewise
    assert set(counts) <= {"bids", "no bid", "creative_rejected", "invalid_response", "error"}
    assert counts["no bid"] >= 70
    # Most of the corpus' VAST is a stand-in without an ad; what is left is whole.
    assert counts["bids"] >= 20
    assert counts["creative_rejected"] >= 100, "banners must not pass as video"


def _kind(detail: str) -> str:
    """A message without what differs from reply to reply."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "…", detail)[:80]


def _call_answered_by(body: Any, request: dict[str, Any] | None) -> HttpCall:
    """The call that a reply answers.

    Many of the corpus' replies carry another id than its requests, because the mock that wrote them did not care;
    taking the id from the reply lets the rest of the reply be judged.
    """
    reply_id = body.get("id") if isinstance(body, dict) else None
    imps = [{"id": imp["id"]} for imp in (request or {}).get("imp", []) if isinstance(imp.get("id"), str)]
    asked = {"id": reply_id if isinstance(reply_id, str) else "?", "imp": imps}
    return HttpCall(method="POST", url="https://rtb.example/bid", body=json.dumps(asked).encode())
