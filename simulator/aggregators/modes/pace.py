"""Answers that take their time, and one that never ends. All stop as soon as the client goes away."""

from __future__ import annotations

import asyncio

from aiohttp import web

from simulator.aggregators.modes.exchange import Exchange

# 6 MB a second: past any limit at once, without taking the core from the client that is to notice.
_FLOOD_CHUNK = b" " * 65_536
_FLOOD_INTERVAL_S = 0.01


async def ok(exchange: Exchange) -> web.StreamResponse:
    """Answer as it should."""
    await exchange.wait()
    return exchange.honest()


async def slow(exchange: Exchange) -> web.StreamResponse:
    """Answer as it should, but later."""
    await exchange.wait(exchange.behaviour.slow_ms)
    return exchange.honest()


async def drip(exchange: Exchange) -> web.StreamResponse:
    """Send the head at once and then a sound body byte by byte, so that no time-out between bytes ever fires."""
    body = exchange.some_bid() or b"{}"
    response = web.StreamResponse(headers=exchange.dialect.format.headers | {"Content-Length": str(len(body))})
    await response.prepare(exchange.request)
    for at in range(len(body)):
        await response.write(body[at : at + 1])
        await asyncio.sleep(exchange.behaviour.drip_interval_ms / 1_000)
    await response.write_eof()
    return response


async def slow_head(exchange: Exchange) -> web.StreamResponse:
    """Send a sound answer byte by byte from its status line on, then close."""
    body = exchange.some_bid() or b"{}"
    lines = [f"{name}: {value}\r\n" for name, value in exchange.dialect.format.headers.items()]
    head = f"HTTP/1.1 200 OK\r\n{''.join(lines)}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    answer = head.encode() + body
    for at in range(len(answer)):
        # The library sends heads whole; below it there is only the transport.
        transport = exchange.request.transport
        if transport is None or transport.is_closing():
            break
        transport.write(answer[at : at + 1])
        await asyncio.sleep(exchange.behaviour.drip_interval_ms / 1_000)
    else:
        if exchange.request.transport is not None:
            exchange.request.transport.close()
    # Not sent: the connection is closed.
    return web.Response()


async def chunk_flood(exchange: Exchange) -> web.StreamResponse:
    """Send blanks for ever, in chunks: each a valid beginning of JSON or XML."""
    response = web.StreamResponse(headers=exchange.dialect.format.headers)
    response.enable_chunked_encoding()
    await response.prepare(exchange.request)
    while True:
        await response.write(_FLOOD_CHUNK)
        await asyncio.sleep(_FLOOD_INTERVAL_S)
