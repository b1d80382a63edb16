"""Every hostile reply there is, and a server that sends them: `python -m tests.integration.hostile_replies`.

The number of the reply stands in the auction's id. A process of its own, so that what the server needs does not count
as what the client needs.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import NamedTuple

from aiohttp import web

from tests.contracts.hostile import JSON_BODIES, STRINGS, vast_documents

_AUCTION_ID = re.compile(rb"[0-9a-f]{32}")


class HostileReply(NamedTuple):
    """A body that answers an auction in one of the dialects."""

    name: str
    dialect: str
    body: bytes


def auction_id(number: int) -> str:
    """Id of the auction that is answered with the reply of this number."""
    return f"{number:032x}"


def _all() -> list[HostileReply]:
    replies = [
        HostileReply(name, dialect, body) for dialect in ("openrtb", "simple") for name, body in JSON_BODIES.items()
    ]
    replies += [HostileReply(f"address: {name}", "simple", _simple(text)) for name, text in STRINGS.items()]
    for name, document in vast_documents().items():
        replies.append(HostileReply(name, "vasttag", document))
        try:
            markup = document.decode()
        except UnicodeDecodeError:
            continue  # JSON is text: inside it this cannot be said
        replies.append(HostileReply(f"markup: {name}", "openrtb", _openrtb(len(replies), markup)))
    return replies


def _simple(address: str) -> bytes:
    return json.dumps({"ad": "x", "price": 5, "currency": "USD", "url": address}).encode()


def _openrtb(number: int, markup: str) -> bytes:
    bid = {"id": "1", "impid": "1", "price": 5, "crid": "c", "mtype": 2, "dur": 15}
    return json.dumps({"id": auction_id(number), "cur": "USD", "seatbid": [{"bid": [bid | {"adm": markup}]}]}).encode()


REPLIES = _all()


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    found = _AUCTION_ID.search(request.raw_path.encode() + await request.read())
    assert found is not None
    return web.Response(body=REPLIES[int(found[0], 16)].body)


async def _serve() -> None:
    runner = web.ServerRunner(web.Server(_answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"READY {runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
