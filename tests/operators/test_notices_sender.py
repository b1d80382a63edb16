"""Attempts against a real server that misbehaves: what goes on the wire, and what is concluded."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from datastreamx.config import NoticesConfig
from datastreamx.errors import ConfigError
from operators.notices.notice import Notice
from operators.notices.outbox import Reply, Result
from operators.notices.sender import BODY_BYTES_MAX, HttpSender
from simulator.processes import free_port
from tests.builders import T0
from tests.operators.test_notices import aggregator

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PATIENT = NoticesConfig(timeout_ms=60_000)
BRISK = NoticesConfig(timeout_ms=200)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Receiver:
    """Heads of the requests that came, per connection."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.heads: list[bytes] = []
        self.connections = 0
        self.port = 0
        self.tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()


def replying(raw: bytes) -> Answer:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return answer


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
    raise ConnectionResetError


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # Closing with unread data or a linger of 0 makes the kernel send RST.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()
    raise ConnectionResetError


async def be_silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


@asynccontextmanager
async def receiver(
    answer: Answer, kind: type[Receiver] = Receiver, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    found = kind(answer)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=tls)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        for task in found.tasks:
            task.cancel()
        await asyncio.gather(*found.tasks, return_exceptions=True)
        # Aborted transports close in the loop's next round.
        await asyncio.sleep(0)


@asynccontextmanager
async def sending(config: NoticesConfig = PATIENT, **changes: Any) -> AsyncIterator[HttpSender]:
    fields = {"notice_network": "any", "notice_hosts": ("127.0.0.1", "localhost"), **changes}
    sender = HttpSender([aggregator("alpha", **fields)], config)
    try:
        yield sender
    finally:
        await sender.close()


def notice(url: str, number: int = 1) -> Notice:
    return Notice(f"{number:032x}", "alpha", "bid-1", "win", url, 0, 0, T0)


async def one_attempt(answer: Answer, config: NoticesConfig = PATIENT) -> tuple[Reply, Receiver]:
    async with receiver(answer) as found, sending(config) as sender:
        reply = await sender.send(notice(f"http://127.0.0.1:{found.port}/w?p=1.5&x=%2F%24"))
    return reply, found


def status(code: int, *headers: str) -> bytes:
    head = "".join(f"{header}\r\n" for header in ("content-length: 0", *headers))
    return f"HTTP/1.1 {code} X\r\n{head}\r\n".encode()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (OK, Result.DELIVERED),
        (status(204), Result.DELIVERED),
        (status(302, "location: http://127.0.0.1:1/elsewhere"), Result.REFUSED),
        (status(400), Result.REFUSED),
        (status(404), Result.REFUSED),
        (status(429), Result.FAILED),
        (status(500), Result.FAILED),
        (status(502), Result.UNCONFIRMED),
        (status(504), Result.UNCONFIRMED),
        (status(524), Result.UNCONFIRMED),
        (status(503), Result.FAILED),
    ],
    ids=lambda value: value.decode().split("\r\n")[0] if isinstance(value, bytes) else "",
)
def test_status_decides_and_is_asked_for_once(raw: bytes, expected: Result) -> None:
    reply, found = asyncio.run(one_attempt(replying(raw)))
    assert reply.result is expected
    assert len(found.heads) == 1


def test_request_is_a_plain_get_of_exactly_that_url() -> None:
    _, found = asyncio.run(one_attempt(replying(status(200, "set-cookie: a=b"))))
    lines = found.heads[0].decode().split("\r\n")
    assert lines[0] == "GET /w?p=1.5&x=%2F%24 HTTP/1.1"
    names = {line.partition(":")[0].lower() for line in lines[1:] if line}
    assert names == {"host", "user-agent", "accept", "accept-encoding"}


@pytest.mark.parametrize("answer", [hang_up, reset, replying(b"nonsense\r\n\r\n")], ids=["closed", "reset", "no HTTP"])
def test_broken_connection_after_the_request_is_unconfirmed_and_never_repeated(answer: Answer) -> None:
    reply, found = asyncio.run(one_attempt(answer))
    assert reply.result is Result.UNCONFIRMED
    assert len(found.heads) == 1


def test_no_answer_in_time_is_unconfirmed() -> None:
    reply, found = asyncio.run(one_attempt(be_silent, BRISK))
    assert reply.result is Result.UNCONFIRMED
    assert len(found.heads) == 1


def test_kept_connection_that_breaks_is_unconfirmed_and_never_repeated() -> None:
    """Here HTTP clients like to repeat a GET by themselves."""

    answers = [replying(OK), hang_up]

    async def once_then_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answers.pop(0)(reader, writer)

    async def story() -> tuple[list[Result], Receiver]:
        async with receiver(once_then_hang_up) as found, sending() as sender:
            url = f"http://127.0.0.1:{found.port}/w"
            return [(await sender.send(notice(url, number))).result for number in range(2)], found

    results, found = asyncio.run(story())
    assert results == [Result.DELIVERED, Result.UNCONFIRMED]
    assert (len(found.heads), found.connections) == (2, 1)


def test_refused_connection_was_surely_not_heard() -> None:
    async def story() -> Reply:
        async with sending() as sender:
            return await sender.send(notice(f"http://127.0.0.1:{free_port()}/w"))

    assert asyncio.run(story()).result is Result.FAILED


def test_failed_handshake_was_surely_not_heard() -> None:
    class NoTls(Receiver):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(OK)
            writer.close()

    async def story() -> Reply:
        async with receiver(replying(OK), NoTls) as found, sending() as sender:
            return await sender.send(notice(f"https://127.0.0.1:{found.port}/w"))

    assert asyncio.run(story()).result is Result.FAILED


@pytest.mark.parametrize("trusted", [True, False])
def test_receiver_is_told_by_tls_if_its_certificate_is_trusted(tmp_path: Path, *, trusted: bool) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    (authority if trusted else trustme.CA()).cert_pem.write_to_path(tmp_path / "ca.pem")

    async def story() -> tuple[Reply, Receiver]:
        async with receiver(replying(OK), tls=tls) as found, sending(ssl_ca_file=str(tmp_path / "ca.pem")) as sender:
            return await sender.send(notice(f"https://127.0.0.1:{found.port}/w")), found

    reply, found = asyncio.run(story())
    assert (reply.result, len(found.heads)) == ((Result.DELIVERED, 1) if trusted else (Result.FAILED, 0))


def test_certificates_that_cannot_be_read_are_named() -> None:
    with pytest.raises(ConfigError, match=r"aggregators\.alpha\.ssl_ca_file"):
        HttpSender([aggregator("alpha", ssl_ca_file="/nowhere")], PATIENT)


def test_handshake_that_hangs_was_surely_not_heard() -> None:
    async def story() -> tuple[Reply, Receiver]:
        async with receiver(replying(OK)) as found, sending(BRISK) as sender:
            return await sender.send(notice(f"https://127.0.0.1:{found.port}/w")), found

    reply, found = asyncio.run(story())
    assert reply.result is Result.FAILED
    assert (found.connections, found.heads) == (1, [])


def test_endless_body_is_not_read_to_its_end() -> None:
    sent = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"x" * BODY_BYTES_MAX)
            sent += BODY_BYTES_MAX
            await writer.drain()

    reply, _ = asyncio.run(one_attempt(endless))
    assert reply.result is Result.DELIVERED
    # What the kernel buffers between the two.
    assert sent < 50_000_000


def test_connection_is_kept_for_the_next_notice() -> None:
    async def story() -> Receiver:
        async with receiver(replying(OK)) as found, sending() as sender:
            for number in range(5):
                await sender.send(notice(f"http://127.0.0.1:{found.port}/w", number))
        return found

    found = asyncio.run(story())
    assert (len(found.heads), found.connections) == (5, 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.1", "0x7f000001", "169.254.169.254"])
def test_public_network_refuses_addresses_that_are_not(host: str) -> None:
    async def story() -> tuple[Reply, Receiver]:
        async with receiver(replying(OK)) as found, sending(notice_network="public") as sender:
            return await sender.send(notice(f"https://{host}:{found.port}/w")), found

    reply, found = asyncio.run(story())
    assert reply.result is Result.FORBIDDEN, reply
    assert found.connections == 0


def test_silent_aggregator_holds_up_only_itself() -> None:
    async def story() -> Reply:
        deaf, well = (aggregator(name, notice_network="any", notice_hosts=("127.0.0.1",)) for name in ("alpha", "beta"))
        async with receiver(be_silent) as silent, receiver(replying(OK)) as found:
            sender = HttpSender([deaf, well], NoticesConfig(timeout_ms=60_000, max_in_flight=4))
            stuck = [
                asyncio.create_task(sender.send(notice(f"http://127.0.0.1:{silent.port}/w", number)))
                for number in range(20)
            ]
            while len(silent.heads) < 2:  # noqa: ASYNC110  the server tells nobody
                await asyncio.sleep(0.001)
            other = Notice("a" * 32, "beta", "bid-1", "win", f"http://127.0.0.1:{found.port}/w", 0, 0, T0)
            reply = await sender.send(other)
            assert len(silent.heads) == 2
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)
            await sender.close()
        return reply

    assert asyncio.run(story()).result is Result.DELIVERED


def test_attempts_after_the_stop_are_not_made() -> None:
    async def story() -> tuple[Reply, Receiver]:
        async with receiver(replying(OK)) as found, sending() as sender:
            sender.stop()
            return await sender.send(notice(f"http://127.0.0.1:{found.port}/w")), found

    reply, found = asyncio.run(story())
    assert reply.result is Result.UNSENT
    assert found.connections == 0
