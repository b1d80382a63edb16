"""The proxy in a process of its own, as tests hold it."""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from datastreamx.errors import CrashError
from simulator.processes import Child, ChildError
from simulator.proxy.condition import Condition, RouteReport
from simulator.proxy.route import HOST

READY_WITHIN_S = 20.0
CONTROL_TIMEOUT_S = 10.0


class LocalProxy:
    """A running proxy; `start` (or `with`) returns once it serves.

    Args:
        upstreams: `host:port` of the server behind each route. They need not run yet.
        log_dir: Where `proxy.log` goes.
        ports: Ports of routes that must be known before the start; the others get free ones.
    """

    def __init__(self, upstreams: Mapping[str, str], *, log_dir: Path, ports: Mapping[str, int] | None = None) -> None:
        self._log_path = log_dir / "proxy.log"
        given = ports or {}
        self._routes = [f"--route={name}:{given.get(name, 0)}={upstream}" for name, upstream in upstreams.items()]
        self._child: Child | None = None
        self._control_port = 0
        self._ports: dict[str, int] = {}

    def address(self, name: str) -> str:
        """`host:port` at which clients reach a route."""
        return f"{HOST}:{self._ports[name]}"

    def start(self) -> None:
        """Start it.

        Raises:
            ChildError: It does not start; quotes the end of its log.
        """
        child = Child(
            "proxy",
            [sys.executable, "-m", "simulator.proxy", *self._routes],
            log_path=self._log_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
            is_ready=lambda started: _ready_line(started) is not None,
            ready_within_s=READY_WITHIN_S,
        )
        child.start()
        self._child = child
        line = _ready_line(child)
        if line is None:
            raise ChildError(f"the proxy was ready but its log {self._log_path} no longer says so")
        self._control_port, self._ports = line

    def stop(self) -> None:
        """End it; every connection is reset."""
        if self._child is not None:
            self._child.stop()

    def poll(self) -> int | None:
        """The exit code, or `None` while it runs (or was never started)."""
        return None if self._child is None else self._child.poll()

    def change(self, name: str, condition: Condition) -> None:
        """Put a condition in force on a route.

        Raises:
            CrashError: The proxy does not answer.
        """
        self._exchange("PUT", name, msgspec.json.encode(condition))

    def heal(self) -> None:
        """Spoil nothing any more, on any route.

        Raises:
            CrashError: The proxy does not answer.
        """
        for name in self._ports:
            self.change(name, Condition())

    def report(self, name: str) -> RouteReport:
        """What a route does and did.

        Raises:
            CrashError: The proxy does not answer.
        """
        return msgspec.json.decode(self._exchange("GET", name), type=RouteReport)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _exchange(self, verb: str, name: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection(HOST, self._control_port, timeout=CONTROL_TIMEOUT_S)
        try:
            connection.request(verb, f"/routes/{name}", body)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise CrashError(f"the proxy does not answer {verb} of {name}: {error!r}; see {self._log_path}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise CrashError(f"the proxy refused {verb} of {name}: {answer.decode(errors='replace').strip()}")
        return answer


def _ready_line(child: Child) -> tuple[int, dict[str, int]] | None:
    for line in child.output().splitlines():
        words = line.split()
        if words[:1] == ["READY"]:
            return int(words[1]), {name: int(port) for name, _, port in (word.partition("=") for word in words[2:])}
    return None
