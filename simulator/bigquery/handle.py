"""The local BigQuery in a process of its own, as tests and the demo hold it."""

from __future__ import annotations

import http.client
import os
import sys
from typing import TYPE_CHECKING, Self

import msgspec

from datastreamx.errors import CrashError
from simulator.bigquery.faults import FaultPlan, FaultReport
from simulator.processes import Child, ChildError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

HOST = "127.0.0.1"
READY_WITHIN_S = 60.0
CONTROL_TIMEOUT_S = 10.0

_FAULTS_PATH = "/simulator/v1/faults"
_STREAMS_PATH = "/simulator/v1/write-streams"


class LocalBigQuery:
    """A running local BigQuery; `start` (or `with`) returns once it serves.

    It may be killed and started again: with fixed ports or not, it comes back on the same ports, so clients find it.

    Args:
        log_dir: Where `bigquery.log` goes.
        rest_port: Port on 127.0.0.1; 0 picks a free one.
        grpc_port: Likewise.
        data_dir: Where tables are kept over restarts; `None` keeps them in memory.
    """

    def __init__(self, log_dir: Path, rest_port: int = 0, grpc_port: int = 0, data_dir: Path | None = None) -> None:
        self._log_path = log_dir / "bigquery.log"
        self._rest_port = rest_port
        self._grpc_port = grpc_port
        self._data_dir = data_dir
        self._child: Child | None = None

    @property
    def rest_url(self) -> str:
        """For `client_options={"api_endpoint": ...}` of the BigQuery client.

        Raises:
            ChildError: It was never started.
        """
        return f"http://{HOST}:{self._known(self._rest_port)}"

    @property
    def grpc_target(self) -> str:
        """For `grpc.insecure_channel` below the Storage clients.

        Raises:
            ChildError: It was never started.
        """
        return f"{HOST}:{self._known(self._grpc_port)}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def start(self) -> None:
        """Start it.

        Raises:
            ChildError: It does not start; quotes the end of its log.
        """
        argv = [sys.executable, "-m", "simulator.bigquery"]
        argv += [f"--rest-port={self._rest_port}", f"--grpc-port={self._grpc_port}"]
        if self._data_dir is not None:
            argv.append(f"--data-dir={self._data_dir}")
        child = Child(
            "local BigQuery",
            argv,
            log_path=self._log_path,
            env=_environment(),
            is_ready=lambda started: _ready_line(started) is not None,
            ready_within_s=READY_WITHIN_S,
        )
        child.start()
        self._child = child
        line = _ready_line(child)
        if line is None:
            raise ChildError("the local BigQuery was ready but its log no longer says so; was the log truncated?")
        self._rest_port, self._grpc_port = line

    def stop(self, grace_s: float = 5.0) -> None:
        """End it; tables in memory are gone."""
        if self._child is not None:
            self._child.stop(grace_s)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._child is not None:
            self._child.kill()

    def poll(self) -> int | None:
        """The exit code, or `None` while it runs (or was never started)."""
        return None if self._child is None else self._child.poll()

    def inject(self, plan: FaultPlan) -> None:
        """Spoil calls from now on as `plan` says; counting starts anew and hanging calls go on.

        Raises:
            CrashError: The server does not answer.
        """
        self._control("PUT", _FAULTS_PATH, msgspec.json.encode(plan))

    def heal(self) -> FaultReport:
        """Stop spoiling; returns what the last plan did.

        Raises:
            CrashError: The server does not answer.
        """
        report = self.faults()
        self._control("DELETE", _FAULTS_PATH)
        return report

    def faults(self) -> FaultReport:
        """The plan in force, and how often it hit.

        Raises:
            CrashError: The server does not answer.
        """
        return msgspec.json.decode(self._control("GET", _FAULTS_PATH), type=FaultReport)

    def expire_write_streams(self) -> None:
        """Forget all write streams, as BigQuery does days after their last use; unflushed rows are lost.

        Raises:
            CrashError: The server does not answer.
        """
        self._control("DELETE", _STREAMS_PATH)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _control(self, verb: str, path: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection(HOST, self._known(self._rest_port), timeout=CONTROL_TIMEOUT_S)
        try:
            connection.request(verb, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        except OSError as error:
            raise CrashError(
                f"the local BigQuery does not answer {verb} {path}: {error}; see {self._log_path}"
            ) from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise CrashError(f"the local BigQuery refused {verb} {path}: {answer.decode(errors='replace')}")
        return answer

    @staticmethod
    def _known(port: int) -> int:
        if port == 0:
            raise ChildError("the local BigQuery has no ports yet; call start() first")
        return port


def _ready_line(child: Child) -> tuple[int, int] | None:
    for line in child.output().splitlines():
        words = line.split()
        if words[:1] == ["READY"]:
            return int(words[1]), int(words[2])
    return None


def _environment() -> dict[str, str]:
    """Ours, without settings that would reach into the server, and with our import path."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BQEMU_")}
    return inherited | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
