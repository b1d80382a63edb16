"""An aggregator that costs next to nothing: OpenRTB over HTTP/1.1 on a bare asyncio protocol.

    python -m benchmarks.stub [DELAY_MS]

prints `READY PORT` and serves on 127.0.0.1 until SIGTERM. Every request is answered with the same bid, at once or after
a delay. The id of a delayed bid tells how many microseconds the request was really held, e.g. `h20107`. It is no HTTP
server: it reads just what our client and the bare loop send, so that the client is what a measurement sees.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from functools import partial
from typing import Final, cast

import uvloop

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
# The id is the first field of what our adapter writes.
_ID: Final = b'{"id":"'


class Stub(asyncio.Protocol):
    """One connection; its answers leave `delay_s` after their requests."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self._delay_s = delay_s
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        # Those of uvloop are no subclass.
        self._transport = cast("asyncio.Transport", transport)

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
            if self._delay_s:
                asyncio.get_running_loop().call_later(self._delay_s, self._answer, body, time.perf_counter_ns())
            elif self._transport is not None:
                self._transport.write(_answer(body, b"b-" + body[len(_ID) : len(_ID) + 8]))

    def _answer(self, body: bytes, received_ns: int) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_answer(body, b"h%d" % ((time.perf_counter_ns() - received_ns) // 1000)))


def _answer(body: bytes, bid_id: bytes) -> bytes:
    auction_id = body[len(_ID) : len(_ID) + 32] if body.startswith(_ID) else b"0" * 32
    answer = (
        b'{"id":"' + auction_id + b'","cur":"USD","seatbid":[{"seat":"s","bid":[{"id":"' + bid_id + b'",'
        b'"impid":"1","price":9.25,"adid":"ad-17","crid":"c-17","adomain":["brand.example"],"cat":["IAB1"],"dur":30,'
        b'"mtype":2,"exp":600}]}]}'
    )
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
        + str(len(answer)).encode()
        + _HEAD_END
        + answer
    )


async def _serve(delay_s: float) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    server = await loop.create_server(partial(Stub, delay_s), "127.0.0.1", 0, backlog=4_096)
    sys.stdout.write(f"READY {server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await stopped.wait()


if __name__ == "__main__":
    delay_ms = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    # For one that answers at once the loop of its measurement's yardstick is kept.
    (uvloop.run if delay_ms else asyncio.run)(_serve(delay_ms / 1000))
