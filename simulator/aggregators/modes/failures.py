"""No usable answer at all: errors, silence, connections that end."""

from __future__ import annotations

import asyncio

from aiohttp import web

from simulator.aggregators.modes.exchange import Exchange

CARELESS_PATH = "/careless"
"""Only a client that follows what a reply says comes here."""


async def silent(_exchange: Exchange) -> web.StreamResponse:
    """Take the request and never answer; ends when the client goes away."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets the event")


async def http_500(exchange: Exchange) -> web.StreamResponse:
    """Fail."""
    await exchange.wait()
    return web.Response(status=500, text="internal error")


async def storm(exchange: Exchange) -> web.StreamResponse:
    """Be healthy, then fail for the last `storm_share` of every `storm_period_s`."""
    await exchange.wait()
    behaviour = exchange.behaviour
    phase = exchange.running_s % behaviour.storm_period_s / behaviour.storm_period_s
    if phase >= 1 - behaviour.storm_share:
        return web.Response(status=503, text="overloaded")
    return exchange.honest()


async def redirect(exchange: Exchange) -> web.StreamResponse:
    """Send the client to another host: the same server by another name, where following it is counted."""
    await exchange.wait()
    elsewhere = exchange.server_url.replace("127.0.0.1", "localhost")
    return web.Response(status=302, headers={"Location": elsewhere + CARELESS_PATH})


async def reset(exchange: Exchange) -> web.StreamResponse:
    """Announce a whole body, send half of it, then cut the connection."""
    await exchange.wait()
    body = exchange.some_bid() or b"{}"
    response = web.StreamResponse(headers=exchange.dialect.format.headers | {"Content-Length": str(len(body))})
    await response.prepare(exchange.request)
    await response.write(body[: len(body) // 2])
    exchange.cut()
    return response
