"""Whole answers whose body is a trap, whatever is in it."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from simulator.aggregators.modes.bombs import deflate_bomb, gzip_bomb, zstd_bomb
from simulator.aggregators.modes.exchange import Exchange, Mode

OVERSIZE_BYTES = 1 << 20
# 100 kB either way, so that it passes every limit on size.
NESTING_DEPTH = 15_000


async def garbage(exchange: Exchange) -> web.StreamResponse:
    """Send a bid that was damaged into something that is neither JSON nor XML."""
    await exchange.wait()
    return exchange.answer((exchange.some_bid() or b"{}")[:-2] + b'"\xff\x00{')


async def oversized(exchange: Exchange) -> web.StreamResponse:
    """Send a sound bid within a mebibyte of filling."""
    await exchange.wait()
    body = exchange.some_bid()
    return exchange.answer(body and exchange.dialect.format.padded(body, OVERSIZE_BYTES))


async def deep(exchange: Exchange) -> web.StreamResponse:
    """Send a sound bid beside an element nested 15,000 levels deep, for parsers that recurse."""
    await exchange.wait()
    body = exchange.some_bid()
    return exchange.answer(body and exchange.dialect.format.nested(body, NESTING_DEPTH))


def bomb(coding: str, body: Callable[[], bytes]) -> Mode:
    """Mode that sends a body which decodes to 200 MiB, in the content coding `coding`."""

    async def send(exchange: Exchange) -> web.StreamResponse:
        await exchange.wait()
        return web.Response(body=body(), headers=exchange.dialect.format.headers | {"Content-Encoding": coding})

    return send


BOMBS: dict[str, Mode] = {
    "gzip_bomb": bomb("gzip", gzip_bomb),
    "deflate_bomb": bomb("deflate", deflate_bomb),
    "zstd_bomb": bomb("zstd", zstd_bomb),
}
