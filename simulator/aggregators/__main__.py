"""One aggregator as a process.

    python -m simulator.aggregators --name kite --dialect simple --seed 7 --port 0 --profile steady

prints `READY PORT` and serves on 127.0.0.1 until SIGTERM or SIGINT. With `--tls DIRECTORY` it speaks TLS, and the
certificate to trust is then `ca.pem` in that directory.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import ssl
import sys
from pathlib import Path

from simulator.aggregators.behaviour import PROFILES
from simulator.aggregators.dialects import DIALECTS
from simulator.aggregators.server import AggregatorServer
from simulator.aggregators.tls import server_context


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m simulator.aggregators", description="A local ad aggregator.")
    parser.add_argument("--name", required=True, help="goes into ad ids and into the draws")
    parser.add_argument("--dialect", required=True, choices=DIALECTS)
    parser.add_argument("--seed", type=int, required=True, help="with name and auction id it decides every answer")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 picks a free one")
    parser.add_argument("--profile", choices=PROFILES, default="steady")
    parser.add_argument("--tls", type=Path, metavar="DIRECTORY", help="where its certificate is, or is made")
    arguments = parser.parse_args(argv)
    server = AggregatorServer(arguments.name, DIALECTS[arguments.dialect], arguments.seed, PROFILES[arguments.profile])
    try:
        context = None if arguments.tls is None else server_context(arguments.tls)
        asyncio.run(_serve(server, arguments.port, context))
    except OSError as error:
        sys.stderr.write(f"cannot serve: {error}; give another --port than {arguments.port}, or another --tls\n")
        return 1
    return 0


async def _serve(server: AggregatorServer, port: int, context: ssl.SSLContext | None) -> None:
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    async with server.serving(port, context) as bound:
        sys.stdout.write(f"READY {bound}\n")
        sys.stdout.flush()
        await asked_to_stop.wait()


if __name__ == "__main__":
    sys.exit(main())
