"""The proxy as a process.

    python -m simulator.proxy --route bigquery=127.0.0.1:9060 --route alpha=127.0.0.1:8080

prints `READY CONTROL-PORT bigquery=PORT alpha=PORT` and serves on 127.0.0.1 until SIGTERM or SIGINT. On the control
port, `GET /routes/NAME` answers with a `RouteReport` and `PUT /routes/NAME` puts a `Condition` in force.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import AsyncExitStack

import msgspec
from aiohttp import web

from simulator.proxy.condition import Condition
from simulator.proxy.route import HOST, Route

ROUTES_PATH = "/routes/"


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m simulator.proxy", description="A TCP proxy that spoils.")
    parser.add_argument("--route", type=_route, action="append", required=True, metavar="NAME[:PORT]=HOST:PORT")
    routes: list[tuple[str, int, Route]] = parser.parse_args(argv).route
    try:
        asyncio.run(_serve(routes))
    except OSError as error:
        sys.stderr.write(f"cannot serve: {error}; leave out the port before the =, then a free one is taken\n")
        return 1
    return 0


async def _serve(routes: list[tuple[str, int, Route]]) -> None:
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    async with AsyncExitStack() as stack:
        ports = {name: await stack.enter_async_context(route.serving(port)) for name, port, route in routes}
        runner = web.ServerRunner(web.Server(_Control({name: route for name, _, route in routes}).handle))
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, HOST, 0).start()
        shown = " ".join(f"{name}={port}" for name, port in ports.items())
        sys.stdout.write(f"READY {runner.addresses[0][1]} {shown}\n")
        sys.stdout.flush()
        await asked_to_stop.wait()


class _Control:
    def __init__(self, routes: dict[str, Route]) -> None:
        self._routes = routes

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request on the control port."""
        route = self._routes.get(request.path.removeprefix(ROUTES_PATH))
        if route is None or request.method not in {"GET", "PUT"}:
            return web.Response(status=404, text=f"only GET and PUT of {ROUTES_PATH}NAME are served\n")
        if request.method == "PUT":
            try:
                route.change(msgspec.json.decode(await request.read(), type=Condition))
            except msgspec.MsgspecError as error:
                return web.Response(status=400, text=f"{error}\n")
        return web.Response(body=msgspec.json.encode(route.report()), content_type="application/json")


def _route(text: str) -> tuple[str, int, Route]:
    """`NAME=HOST:PORT`, or `NAME:PORT=HOST:PORT` to be reached on a certain port."""
    name, equals, upstream = text.partition("=")
    host, colon, port = upstream.rpartition(":")
    name, _, own_port = name.partition(":")
    if not (name and equals and colon and port.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text} is not NAME[:PORT]=HOST:PORT")
    return name, int(own_port or 0), Route((host, int(port)))


if __name__ == "__main__":
    sys.exit(main())
