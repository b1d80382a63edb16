"""Probes of a container: asked as often, judged as strictly as its manifest says."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from typing import Literal

from tests.k8s.podlet.machine import PodletError
from tests.k8s.podlet.manifest import Resource, port_of
from tests.k8s.podlet.network import Link

Kind = Literal["startup", "liveness", "readiness"]

_KINDS: tuple[Kind, ...] = ("startup", "liveness", "readiness")


def get(link: Link, port: int, path: str, timeout_s: float, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """GET from within a pod's network; returns status and body.

    Raises:
        OSError: It does not answer in time.
        http.client.HTTPException: What it answers is not HTTP.
    """
    connection = http.client.HTTPConnection(link.address, port, timeout=timeout_s)
    connection.sock = link.connect(port, timeout_s)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Probes:
    """The probes of one run of a container, each in a thread of its own.

    Args:
        on_change: Called with the kind and whether it holds, when that is decided anew.
    """

    def __init__(self, container: Resource, link: Link, on_change: Callable[[Kind, bool], None]) -> None:
        self._container = container
        self._link = link
        self._on_change = on_change
        self._stopped = threading.Event()
        self._deciding = threading.Lock()
        self._started_up = threading.Event()
        if "startupProbe" not in container:
            self._started_up.set()
        for kind in _KINDS:
            if f"{kind}Probe" in container:
                _check(container[f"{kind}Probe"], container["name"])
                threading.Thread(target=self._watch, args=(kind,), name=f"{kind} probe", daemon=True).start()
        if "readinessProbe" not in container and self._started_up.is_set():
            on_change("readiness", True)

    def stop(self) -> None:
        """Decide nothing any more."""
        with self._deciding:
            self._stopped.set()
        self._started_up.set()

    def _watch(self, kind: Kind) -> None:
        probe = self._container[f"{kind}Probe"]
        needed = {True: probe.get("successThreshold", 1), False: probe.get("failureThreshold", 3)}
        if kind != "startup":
            self._started_up.wait()
        self._stopped.wait(probe.get("initialDelaySeconds", 0))
        in_a_row, last, decided = 0, None, None
        while not self._stopped.is_set():
            result = self._holds(probe)
            in_a_row = in_a_row + 1 if result == last else 1
            last = result
            if in_a_row >= needed[result] and result != decided:
                decided = result
                self._decide(kind, holds=result)
                if kind == "startup":
                    return
            self._stopped.wait(probe.get("periodSeconds", 10))

    def _decide(self, kind: Kind, *, holds: bool) -> None:
        with self._deciding:
            if self._stopped.is_set():
                return
            self._on_change(kind, holds)
            if kind == "startup" and holds:
                self._started_up.set()
                if "readinessProbe" not in self._container:
                    self._on_change("readiness", True)

    def _holds(self, probe: Resource) -> bool:
        request = probe["httpGet"]
        headers = {header["name"]: header["value"] for header in request.get("httpHeaders", [])}
        port = port_of(self._container, request["port"])
        try:
            status, _ = get(self._link, port, request.get("path", "/"), probe.get("timeoutSeconds", 1), headers)
        except (OSError, http.client.HTTPException):
            return False
        return http.client.OK <= status < http.client.BAD_REQUEST


def _check(probe: Resource, container: str) -> None:
    if "httpGet" not in probe or probe["httpGet"].get("scheme", "HTTP") != "HTTP" or "host" in probe["httpGet"]:
        raise PodletError(f"container {container}: the harness knows probes by plain HTTP to the pod, not {probe}")
