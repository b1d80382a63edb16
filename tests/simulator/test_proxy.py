"""The proxy between a client and an echo server: every condition does what it says, and ends when it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from datastreamx.errors import CrashError
from simulator.processes import free_port
from simulator.proxy.condition import Condition
from simulator.proxy.handle import LocalProxy
from simulator.proxy.route import HOST, Route

T = TypeVar("T")

WAIT_S = 10.0
SILENCE_S = 0.1

Call = Callable[[], Awaitable["Caller"]]


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(1024):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, HOST, 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def say(self, text: bytes) -> None:
        self._writer.write(text)

    async def hear(self, count: int = 4) -> bytes:
        return await asyncio.wait_for(self._reader.readexactly(count), WAIT_S)

    async def hears_nothing(self) -> bool:
        try:
            await asyncio.wait_for(self._reader.read(1), SILENCE_S)
        except TimeoutError:
            return True
        return False

    async def ask(self, text: bytes) -> bytes:
        self.say(text)
        return await self.hear(len(text))

    def finish(self) -> None:
        self._writer.write_eof()

    async def leave(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def calls_to(port: int) -> AsyncIterator[Call]:
    callers: list[Caller] = []

    async def call() -> Caller:
        callers.append(Caller(*await asyncio.open_connection(HOST, port)))
        return callers[-1]

    yield call
    for caller in callers:
        await caller.leave()


def through_a_route(play: Callable[[Route, Call], Awaitable[T]]) -> T:
    async def run() -> T:
        async with echo_server() as upstream:
            route = Route((HOST, upstream))
            async with route.serving() as port, calls_to(port) as call:
                return await play(route, call)

    return asyncio.run(run())


def test_bytes_and_the_end_of_a_connection_pass() -> None:
    async def play(route: Route, call: Call) -> None:
        caller = await call()
        assert await caller.ask(b"ping") == b"ping"
        assert (route.report().links, route.report().bytes_up, route.report().bytes_down) == (1, 4, 4)
        caller.say(b"last")
        caller.finish()
        assert await caller.hear() == b"last"
        with pytest.raises(asyncio.IncompleteReadError):
            await caller.hear()

    through_a_route(play)


@pytest.mark.parametrize("cut", ["black_hole", "one_way"])
def test_cut_holds_bytes_and_gives_them_back_in_order(cut: str) -> None:
    async def play(route: Route, call: Call) -> None:
        caller = await call()
        await caller.ask(b"ping")
        route.change(Condition(cut=cut))  # type: ignore[arg-type]  # one of them
        caller.say(b"aaaa")
        caller.say(b"bbbb")
        assert await caller.hears_nothing()
        assert route.report().bytes_up == (4 if cut == "black_hole" else 12)
        route.change(Condition())
        assert await caller.hear(8) == b"aaaabbbb"

    through_a_route(play)


def test_who_connects_to_a_black_hole_hears_when_it_ends() -> None:
    async def play(route: Route, call: Call) -> None:
        route.change(Condition(cut="black_hole"))
        caller = await call()
        caller.say(b"ping")
        assert await caller.hears_nothing()
        route.change(Condition())
        assert await caller.hear() == b"ping"

    through_a_route(play)


def test_reset_ends_connections_with_an_error_and_new_ones_too() -> None:
    async def play(route: Route, call: Call) -> None:
        caller = await call()
        await caller.ask(b"ping")
        route.change(Condition(cut="reset"))
        with pytest.raises(ConnectionResetError):
            await caller.hear()
        another = await call()
        with pytest.raises(ConnectionResetError):
            await another.hear()
        route.change(Condition())
        assert await (await call()).ask(b"ping") == b"ping"
        assert route.report().resets == 2

    through_a_route(play)


def test_half_open_connection_is_silent_and_reset_when_it_is_over() -> None:
    async def play(route: Route, call: Call) -> None:
        caller = await call()
        await caller.ask(b"ping")
        route.change(Condition(cut="half_open"))
        caller.say(b"lost")
        assert await caller.hears_nothing()
        route.change(Condition())
        with pytest.raises(ConnectionResetError):
            await caller.hear()

    through_a_route(play)


def test_delay_comes_once_and_not_for_every_piece() -> None:
    async def play(route: Route, call: Call) -> None:
        caller = await call()
        route.change(Condition(delay_ms=200))
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        for _ in range(20):
            caller.say(b"ping")
            await asyncio.sleep(0.001)
        await caller.hear(80)
        # Up and down; piece by piece it would be 8 s.
        assert 0.4 <= loop.time() - begin_s < 4

    through_a_route(play)


def test_rate_limits_what_passes() -> None:
    async def play(route: Route, call: Call) -> None:
        caller = await call()
        route.change(Condition(bytes_per_s=10_000))
        begin_s = asyncio.get_running_loop().time()
        caller.say(bytes(3_000))
        await caller.hear(2_900)
        caller.say(b"ping")
        await caller.hear(104)
        assert asyncio.get_running_loop().time() - begin_s >= 0.3

    through_a_route(play)


def test_server_that_is_down_is_a_reset() -> None:
    async def play() -> None:
        route = Route((HOST, free_port()))
        async with route.serving() as port, calls_to(port) as call:
            caller = await call()
            with pytest.raises(ConnectionResetError):
                await caller.hear()

    asyncio.run(play())


def test_process_serves_routes_under_control(tmp_path: Path) -> None:
    async def play(proxy: LocalProxy, port: int) -> None:
        async with calls_to(port) as call:
            caller = await call()
            assert await caller.ask(b"ping") == b"ping"
            await asyncio.to_thread(proxy.change, "b", Condition(cut="reset"))
            with pytest.raises(ConnectionResetError):
                await caller.hear()
            assert (await asyncio.to_thread(proxy.report, "b")).resets == 1
            await asyncio.to_thread(proxy.heal)
            assert await (await call()).ask(b"ping") == b"ping"
            with pytest.raises(CrashError, match="only GET and PUT"):
                await asyncio.to_thread(proxy.report, "other")

    async def run() -> None:
        async with echo_server() as upstream:
            port, address = free_port(), f"{HOST}:{upstream}"
            with LocalProxy({"a": address, "b": address}, log_dir=tmp_path, ports={"b": port}) as proxy:
                assert proxy.address("b") == f"{HOST}:{port}"
                await play(proxy, port)

    asyncio.run(run())
