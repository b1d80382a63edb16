from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.k8s.podlet import Podlet, unusable
from tests.k8s.podlet.manifest import Resource
from tests.k8s.podlet.manifests import PORT
from tests.k8s.podlet.sandbox import bare_image
from tests.k8s.tally import Tally


class Cluster(Protocol):
    def __call__(self, *resources: Resource, **options: Any) -> Podlet: ...


@pytest.fixture(autouse=True)
def _counted(tally: Tally) -> None:
    """Each test is one check of the harness's table."""
    tally("podlet", 1)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """Make a harness with resources, to be entered by the test."""
    reason = unusable()
    if reason is not None:
        pytest.skip(f"the process harness {reason}")

    def make(*resources: Resource, **options: Any) -> Podlet:
        return Podlet(resources, directory=tmp_path, **{"time_scale": 1000.0, "image": bare_image(), **options})

    return make


Ask = Callable[..., Any]


@pytest.fixture
def ask() -> Ask:
    """Ask the service of a pod; its answer, read as JSON where it is."""

    def get(podlet: Podlet, pod: str, path: str) -> Any:
        status, body = podlet.get(pod, path, PORT)
        assert status == 200, (status, body)
        text = body.decode()
        return json.loads(text) if text.startswith(("[", "{")) else text

    return get


@pytest.fixture
def local_port() -> Iterator[int]:
    """Of a service that listens on the loopback interface of this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from outside")

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()
