"""An aggregator that costs next to nothing: OpenRTB over HTTP/1.1 on a bare asyncio protocol.

    python -m benchmarks.stub

prints `READY PORT` and serves on 127.0.0.1 until SIGTERM. Every request is answered at once with the same bid. It is
no HTTP server: it reads just what our client and the bare loop send, so that the client is what a measurement sees.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Final

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
# The id is the first field of what our adapter writes.
_ID: Final = b'{"id":"'


class Stub(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._buffer += data
        while (end := self._buffer.find(_HEAD_END)) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(_LENGTH)
            length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            begin = end + len(_HEAD_END)
            if len(self._buffer) < begin + length:
                return
            body, self._buffer = self._buffer[begin : begin + length], self._buffer[begin + length :]
            if self._transport is not None:
                self._transport.write(_answer(body))


def _answer(body: bytes) -> bytes:
    auction_id = body[len(_ID) : len(_ID) + 32] if body.startswith(_ID) else b"0" * 32
    answer = (
        b'{"id":"' + auction_id + b'","cur":"USD","seatbid":[{"seat":"s","bid":[{"id":"b-' + auction_id[:8] + b'",'
        b'"impid":"1","price":9.25,"adid":"ad-17","crid":"c-17","adomain":["brand.example"],"cat":["IAB1"],"dur":30,'
        b'"mtype":2,"exp":600}]}]}'
    )
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
        + str(len(answer)).encode()
        + _HEAD_END
        + answer
    )


async def _serve() -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    server = await loop.create_server(Stub, "127.0.0.1", 0, backlog=4_096)
    sys.stdout.write(f"READY {server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await stopped.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
