"""The local BigQuery as a process.

    python -m simulator.bigquery --rest-port 0 --grpc-port 0 [--data-dir DIR]

prints `READY REST_PORT GRPC_PORT` and serves on 127.0.0.1 until SIGTERM or SIGINT; only errors are printed besides.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

import structlog


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m simulator.bigquery", description="A local BigQuery.")
    parser.add_argument("--rest-port", type=int, default=0, help="port on 127.0.0.1; 0 picks a free one")
    parser.add_argument("--grpc-port", type=int, default=0, help="port on 127.0.0.1; 0 picks a free one")
    parser.add_argument("--data-dir", type=Path, help="keep tables here; without it they live in memory")
    arguments = parser.parse_args(argv)

    asked_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: asked_to_stop.set())
    logging.basicConfig(level=logging.ERROR)
    # bqemulator logs while it is imported, through structlog's default, which prints everything.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    from simulator.bigquery.server import LocalServer  # noqa: PLC0415  after the log is quiet

    with LocalServer(arguments.data_dir, arguments.rest_port, arguments.grpc_port) as server:
        sys.stdout.write(f"READY {server.rest_port} {server.grpc_port}\n")
        sys.stdout.flush()
        asked_to_stop.wait()
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # All data is closed. A normal exit would wait for gRPC's worker threads, of which one may hang in a client's hands.
    os._exit(code)
