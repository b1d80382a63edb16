"""A service to try the harness on: as good, as stubborn and as greedy as it is told to be.

    python server.py PORT

`/healthz` and `/readyz` answer 200, or 503 while the file `unhealthy` or `unready` lies in /tmp. `/exit?CODE` ends it,
`/eat?MEBIBYTES` takes memory, `/fetch?HOST:PORT` fetches from elsewhere, `/who` tells what it is. It counts its starts
in the folder STATE, and ignores TERM if the environment says STUBBORN.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TMP = "/tmp"  # noqa: S108  the pod's own

eaten: list[bytes] = []


def who() -> dict[str, object]:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    state = os.environ.get("STATE")
    return {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "capabilities": [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
        "no_new_privs": status["NoNewPrivs"].strip(),
        "hostname": socket.gethostname(),
        "env": dict(os.environ),
        "argv": sys.argv,
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "processes": sorted(int(name.name) for name in Path("/proc").iterdir() if name.name.isdigit()),
        "writable": [folder for folder in os.environ.get("TRY", "").split(":") if folder and can_write(folder)],
        "starts": Path(state, "starts").read_text().count("\n") if state else 0,
    }


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def can_write(folder: str) -> bool:
    try:
        Path(folder, ".try").write_text("")
    except OSError:
        return False
    return True


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        status, body = 200, b"ok"
        match path:
            case "/who":
                body = json.dumps(who()).encode()
            case "/exit":
                os._exit(int(query))
            case "/eat":
                eaten.append(b"x" * (int(query) << 20))
            case "/file":
                body = Path(query).read_bytes()
            case "/resolve":
                body = json.dumps(sorted({found[4][0] for found in socket.getaddrinfo(query, 1)})).encode()
            case "/fetch":
                status, body = fetch(query)
            case "/healthz" | "/readyz":
                spoiled = Path(TMP, "unhealthy" if path == "/healthz" else "unready")
                status = 503 if spoiled.exists() else 200
            case "/touch":
                Path(query).write_text("")
            case "/remove":
                Path(query).unlink()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not that noise."""


def fetch(target: str) -> tuple[int, bytes]:
    host, _, port = target.partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=1)
    try:
        connection.request("GET", "/healthz")
        return 200, connection.getresponse().read()
    except OSError as error:
        return 502, repr(error).encode()
    finally:
        connection.close()


def main() -> None:
    if "STATE" in os.environ:
        with Path(os.environ["STATE"], "starts").open("a") as starts:
            starts.write("start\n")
    if "STUBBORN" in os.environ:
        signal.signal(signal.SIGTERM, lambda *_: say("no"))
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    say("serving")
    ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()


main()
