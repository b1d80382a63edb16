"""One route: a port on which clients connect, and the server behind it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from simulator.proxy.condition import Condition, RouteReport

HOST = "127.0.0.1"

_CHUNK_BYTES = 64 * 1024
_QUEUED_CHUNKS = 64
"""Data under way per direction and connection: enough for the largest delay at the speed of a loopback client."""
_CONNECT_TIMEOUT_S = 5.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of 0: closing sends RST and drops what is not sent (socket(7))."""

Direction = Literal["up", "down"]


@dataclass(eq=False)
class _Link:
    """One connection of a client, and ours to the server once there is one."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    broken: asyncio.Event = field(default_factory=asyncio.Event)


class Route:
    """Passes bytes between clients and `upstream`. Lives on one event loop.

    Args:
        upstream: Host and port of the server.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._condition = Condition()
        self._links: set[_Link] = set()
        self._idle = asyncio.Event()
        self._accepted = self._resets = 0
        self._bytes: dict[Direction, int] = {"up": 0, "down": 0}
        self._open: dict[Direction, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self.change(Condition())

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[int]:
        """Serve on 127.0.0.1 within the context; yields the port.

        Raises:
            OSError: The port is taken.
        """
        server = await asyncio.start_server(self._serve, HOST, port)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()
            for link in [*self._links]:
                self._reset(link)
            while self._links:
                self._idle.clear()
                await self._idle.wait()

    def change(self, condition: Condition) -> None:
        """Put a condition in force, for the connections that there are, too."""
        was, self._condition = self._condition, condition
        for direction, cuts in _HELD_BY.items():
            (self._open[direction].clear if condition.cut in cuts else self._open[direction].set)()
        if condition.cut == "half_open":
            for link in self._links:
                if link.server is not None:
                    link.server.transport.abort()
        elif condition.cut == "reset" or was.cut == "half_open":
            for link in [*self._links]:
                self._reset(link)

    def report(self) -> RouteReport:
        """What is and was."""
        return RouteReport(
            condition=self._condition,
            links=len(self._links),
            accepted=self._accepted,
            resets=self._resets,
            bytes_up=self._bytes["up"],
            bytes_down=self._bytes["down"],
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        self._accepted += 1
        if self._condition.cut == "reset":
            self._reset(link)
        relaying = asyncio.ensure_future(self._relay(link, reader))
        broken = asyncio.ensure_future(link.broken.wait())
        try:
            await asyncio.wait((relaying, broken), return_when=asyncio.FIRST_COMPLETED)
            if relaying.done() and relaying.exception() is not None:
                # A reset by one end is passed on to the other.
                self._reset(link)
        finally:
            for task in (relaying, broken):
                task.cancel()
            await asyncio.gather(relaying, broken, return_exceptions=True)
            for end in (link.client, link.server):
                if end is not None:
                    end.close()
            self._links.discard(link)
            if not self._links:
                self._idle.set()

    async def _relay(self, link: _Link, from_client: asyncio.StreamReader) -> None:
        await self._open["up"].wait()
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            from_server, link.server = await asyncio.open_connection(*self._upstream)
        async with asyncio.TaskGroup() as pumps:
            pumps.create_task(self._pump(link, from_client, link.server, "up"))
            pumps.create_task(self._pump(link, from_server, link.client, "down"))

    async def _pump(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction
    ) -> None:
        """Pass on one direction until its end, which is passed on, too."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED_CHUNKS)
        writing = asyncio.ensure_future(self._write(link, queue, sink, direction))
        try:
            data = b"-"
            while data:
                data = await self._read(link, source)
                await queue.put((asyncio.get_running_loop().time() + self._condition.delay_ms / 1000, data))
            await writing
        finally:
            writing.cancel()

    async def _read(self, link: _Link, source: asyncio.StreamReader) -> bytes:
        try:
            data = await source.read(_CHUNK_BYTES)
        except OSError:
            data = b""
            if self._condition.cut != "half_open":
                raise
        if not data and self._condition.cut == "half_open":
            # Whoever is left is not told.
            await link.broken.wait()
        return data

    async def _write(
        self, link: _Link, queue: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter, direction: Direction
    ) -> None:
        while True:
            due_s, data = await queue.get()
            await asyncio.sleep(due_s - asyncio.get_running_loop().time())
            await self._open[direction].wait()
            if self._condition.cut == "half_open":
                await link.broken.wait()
            if not data:
                sink.write_eof()
                return
            sink.write(data)
            await sink.drain()
            self._bytes[direction] += len(data)
            if self._condition.bytes_per_s:
                await asyncio.sleep(len(data) / self._condition.bytes_per_s)

    def _reset(self, link: _Link) -> None:
        self._resets += 1
        link.broken.set()
        for end in (link.client, link.server):
            if end is not None and not end.transport.is_closing():
                raw: socket.socket = end.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                end.transport.abort()


_HELD_BY: dict[Direction, frozenset[str]] = {
    "up": frozenset({"black_hole"}),
    "down": frozenset({"black_hole", "one_way"}),
}
