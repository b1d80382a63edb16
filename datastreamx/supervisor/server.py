"""`/livez`, `/readyz`, `/status` and `/metrics` over HTTP, answered by threads beside the supervisor's loop."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from datastreamx.clock import Clock
from datastreamx.errors import CrashError
from datastreamx.supervisor.limits import Limits
from datastreamx.supervisor.metrics import exposition
from datastreamx.supervisor.status import Status
from datastreamx.supervisor.view import Health, View, livez, readyz

_PATIENCE_S = 5.0
"""For whoever asks us, and for the worker's metrics."""

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_JSON = "application/json"

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Past the proxy of the environment, which would look for the worker on its own machine."""

_Answer = tuple[HTTPStatus, str, bytes]


class Answers:
    """What is answered on which path; knows nothing of HTTP.

    Args:
        look: The supervisor's latest view; called, like `tell`, from several threads.
        tell: What the status file says.
    """

    def __init__(self, look: Callable[[], View], tell: Callable[[], Status], limits: Limits, clock: Clock) -> None:
        self._look = look
        self._tell = tell
        self._limits = limits
        self._clock = clock

    def answer(self, path: str) -> _Answer:
        """Status, content type and body."""
        view, now_s = self._look(), self._clock.monotonic_s()
        match path.partition("?")[0]:
            case "/livez":
                return _told(livez(view, self._limits, now_s))
            case "/readyz":
                return _told(readyz(view, self._limits, now_s))
            case "/status":
                return HTTPStatus.OK, _JSON, msgspec.json.encode(self._tell())
            case "/metrics":
                return HTTPStatus.OK, _TEXT, _worker_metrics(view) + exposition(view, now_s)
            case _:
                return HTTPStatus.NOT_FOUND, _JSON, b'{"paths":["/livez","/readyz","/status","/metrics"]}'


def _told(health: Health) -> _Answer:
    status = HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE
    return status, _JSON, msgspec.json.encode(health)


def _worker_metrics(view: View) -> bytes:
    """The worker's own, or nothing: it may be gone, or hang."""
    address = view.report.metrics if view.report and view.pid is not None else None
    if address is None:
        return b""
    with (
        contextlib.suppress(OSError, HTTPException),
        _DIRECT.open(address, timeout=_PATIENCE_S) as reply,
    ):
        body: bytes = reply.read()
        return body
    return b""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, answers: Answers) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.answers = answers
        super().__init__((host, port), _Handler)

    def handle_error(self, *_: object) -> None:
        """Whoever asked has left."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _PATIENCE_S

    def do_GET(self) -> None:
        status, kind, body = self.server.answers.answer(self.path)
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  the name that the library looks for

    def log_message(self, *_: object) -> None:
        """Probes are no news."""


@contextlib.contextmanager
def serving(host: str, port: int, answers: Answers) -> Iterator[str]:
    """Serve from a daemon thread; yields the address of `/metrics`.

    Raises:
        CrashError: The port cannot be used.
    """
    try:
        server = _Server(host, port, answers)
    except OSError as error:
        raise CrashError(
            f"metrics.host and metrics.port: cannot listen at {host}:{port}: {error.strerror or error}; does another "
            "flow use the port? Give each flow on a machine one of its own, or 0 for a free one"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
