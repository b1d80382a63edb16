"""An aggregator in this event loop, and requests in its dialects as anybody would write them."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import aiohttp
import msgspec

from datastreamx.clock import Clock
from simulator.aggregators.behaviour import PROFILES, Behaviour
from simulator.aggregators.dialects import DIALECTS
from simulator.aggregators.server import AggregatorServer

T = TypeVar("T")

SEED = 20_231_114
NAME = "kite"
AUCTION = "3b1f0e6a9c2d4875a1e0f3c4b5d60718"
INSTANT = PROFILES["instant"]


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Offered(NamedTuple):
    """One offer as it stood on the wire; `creative` is an address or a document."""

    auction: str | None
    imp: str | None
    bid: str | None
    ad: str
    price: str
    currency: str
    duration_ms: int
    advertiser: str
    creative: str | None
    notices: dict[str, str]


class Client:
    """Plain HTTP against a server in this event loop."""

    def __init__(self, dialect: str, server: AggregatorServer, session: aiohttp.ClientSession, port: int) -> None:
        self.dialect = dialect
        self.server = server
        self.session = session
        self.port = port
        self.base = f"http://127.0.0.1:{port}"

    async def ask(self, auction: str = AUCTION, **asked: Any) -> Reply:
        """One request for bids; redirects are not followed."""
        method, path, body = bid_request(self.dialect, auction, **asked)
        async with self.session.request(method, self.base + path, data=body, allow_redirects=False) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    async def offers(self, auction: str = AUCTION, **asked: Any) -> list[Offered]:
        """What is offered; nothing for the dialect's no-bid."""
        return offers_in(self.dialect, await self.ask(auction, **asked))

    async def raw(self, auction: str = AUCTION) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which one request for bids was sent."""
        method, path, body = bid_request(self.dialect, auction)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body or b'')}\r\n\r\n"
        writer.write(head.encode() + (body or b""))
        return reader, writer

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the event loop turn until the condition holds; the test's own time limit ends a wait in vain."""
        while not condition():  # noqa: ASYNC110  the counters under test have no event
            await asyncio.sleep(0.001)


def with_server(
    dialect: str, behaviour: Behaviour, story: Callable[[Client], Awaitable[T]], clock: Clock | None = None
) -> T:
    async def run() -> T:
        server = AggregatorServer(NAME, DIALECTS[dialect], SEED, behaviour, clock)
        async with server.serving() as port, aiohttp.ClientSession() as session:
            return await story(Client(dialect, server, session, port))

    return asyncio.run(run())


def in_mode(mode: str, **more: Any) -> Behaviour:
    return msgspec.structs.replace(INSTANT, mode=mode, **more)


def bid_request(
    dialect: str,
    auction: str,
    *,
    slot_s: int = 30,
    max_ads: int = 1,
    longest_s: int | None = None,
    floor: str = "0",
    last_ad: str | None = None,
    blocked: tuple[str, ...] = (),
    extra: dict[str, Any] | None = None,
) -> tuple[str, str, bytes | None]:
    """Method, path and body."""
    if dialect == "openrtb":
        video: dict[str, Any] = {"mimes": ["video/mp4"], "maxduration": longest_s or slot_s}
        if max_ads > 1:
            video |= {"poddur": slot_s, "maxseq": max_ads}
        message: dict[str, Any] = {
            "id": auction,
            "imp": [{"id": "slot-7", "video": video, "bidfloor": float(floor)}],
            "at": 1,
            "tmax": 250,
            "cur": ["USD"],
            "device": {"devicetype": 7},
            "app": {"bundle": "com.example.stb"},
            "badv": list(blocked),
            "ext": {"stb": {"last_ad": last_ad}},
        }
        return "POST", "/bid", json.dumps(message | (extra or {})).encode()
    query: dict[str, Any]
    if dialect == "simple":
        query = {"id": auction, "channel": "ch17", "slot_ms": slot_s * 1_000, "floor": floor}
        if max_ads > 1:
            query["max_ads"] = max_ads
        if blocked:
            query["block"] = ",".join(blocked)
    else:
        query = {"auction": auction, "channel": "ch17", "duration": slot_s, "floor": floor}
    if last_ad is not None:
        query["last_ad"] = last_ad
    return "GET", f"/bid?{urlencode(query | (extra or {}))}", None


def offers_in(dialect: str, reply: Reply) -> list[Offered]:
    assert reply.status in {200, 204}, reply
    if dialect == "vasttag":
        return _offers_in_vast(reply.body)
    if reply.status == 204:
        return []
    # Numbers as text, so that NaN and what no float can hold is seen as it was sent.
    answer = json.loads(reply.body, parse_float=str, parse_int=str, parse_constant=str)
    if dialect == "simple":
        return [_simple_offer(ad) for ad in answer.get("ads", [answer])]
    return [_openrtb_offer(answer, bid) for seat in answer["seatbid"] for bid in seat["bid"]]


def _openrtb_offer(answer: dict[str, Any], bid: dict[str, Any]) -> Offered:
    assert bid["mtype"] == "2"
    return Offered(
        auction=answer["id"],
        imp=bid["impid"],
        bid=bid["id"],
        ad=bid["crid"],
        price=bid["price"],
        currency=answer["cur"],
        duration_ms=int(bid["dur"]) * 1_000,
        advertiser=bid["adomain"][0],
        creative=bid.get("adm"),
        notices={key: bid[key] for key in ("nurl", "lurl", "burl") if key in bid},
    )


def _simple_offer(ad: dict[str, Any]) -> Offered:
    url = ad.get("url")
    if url is not None and url.startswith("data:"):
        url = b64decode(url.partition(",")[2]).decode()
    return Offered(
        auction=ad["id"],
        imp=None,
        bid=ad["bid"],
        ad=ad["ad"],
        price=ad["price"],
        currency=ad["currency"],
        duration_ms=int(ad["duration_ms"]),
        advertiser=ad["advertiser"],
        creative=url,
        notices={key: ad[key] for key in ("win_url", "loss_url", "bill_url") if key in ad},
    )


def _offers_in_vast(body: bytes) -> list[Offered]:
    if b"<!DOCTYPE" in body:
        # Whoever asks for these looks at the document alone, and nobody here resolves what is in it.
        return [Offered(None, None, None, "", "", "", 0, "", body.decode(), {})]
    root = ET.fromstring(body)  # noqa: S314  our own document, without a DOCTYPE
    offers = []
    for ad in root.findall("Ad/InLine"):
        pricing = ad.find("Pricing")
        assert pricing is not None
        assert pricing.get("model") == "CPM"
        hours, minutes, seconds = map(int, (ad.findtext(".//Duration") or "").split(":"))
        impression = ad.findtext("Impression")
        assert impression is not None
        assert impression.startswith("https://")
        (media,) = ad.findall(".//MediaFile")
        offer = Offered(
            auction=None,
            imp=None,
            bid=None,
            ad=ad.findtext("AdTitle") or "",
            price=pricing.text or "",
            currency=pricing.get("currency") or "",
            duration_ms=((hours * 60 + minutes) * 60 + seconds) * 1_000,
            advertiser=ad.findtext("Advertiser") or "",
            creative=media.text,
            notices={},
        )
        offers.append(offer)
    return offers
