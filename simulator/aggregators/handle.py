"""An aggregator in a process of its own, as tests and the demo hold it."""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

from datastreamx.errors import CrashError
from simulator.aggregators.behaviour import PROFILES, Behaviour
from simulator.aggregators.notices import Notice
from simulator.aggregators.stats import Stats
from simulator.aggregators.tls import CA_FILE
from simulator.processes import Child, ChildError

HOST = "127.0.0.1"
READY_WITHIN_S = 20.0
CONTROL_TIMEOUT_S = 10.0

# A tag is an address with macros; these are our adapter's.
_TAG_QUERY = "?auction={auction}&channel={channel}&duration={duration}&floor={floor}&last_ad={last_ad}"


class LocalAggregator:
    """A running aggregator; `start` (or `with`) returns once it serves.

    It may be stopped or killed and started again: it comes back on the same port with the profile's behaviour and
    fresh counters.

    Args:
        name: Goes into ad ids and into the draws.
        dialect: What it speaks.
        log_dir: Where `aggregator-NAME.log` goes, and with `tls` the folder `aggregator-NAME-tls`.
        seed: With name and auction id it decides every answer.
        profile: Behaviour to begin with, see `simulator.aggregators.behaviour.PROFILES`.
        port: Port on 127.0.0.1; 0 picks a free one.
        tls: Serve by TLS; a client has to be given `ca_file`.
    """

    def __init__(  # noqa: PLR0913  what identifies it comes first, the rest by name
        self,
        name: str,
        dialect: Literal["openrtb", "simple", "vasttag"],
        *,
        log_dir: Path,
        seed: int = 0,
        profile: str = "steady",
        port: int = 0,
        tls: bool = False,
    ) -> None:
        if profile not in PROFILES:
            raise ValueError(f"unknown profile {profile!r}; known are {', '.join(PROFILES)}")
        self.name = name
        self.dialect = dialect
        self._seed = seed
        self._profile = profile
        self._log_path = log_dir / f"aggregator-{name}.log"
        self._port = port
        self._tls_directory = log_dir / f"aggregator-{name}-tls" if tls else None
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """Where bid requests go: the `url` of an `[[aggregators]]` entry.

        Raises:
            ChildError: It was never started, so there is no port yet.
        """
        scheme = "http" if self._tls_directory is None else "https"
        return f"{scheme}://{HOST}:{self._known_port()}/bid{_TAG_QUERY if self.dialect == 'vasttag' else ''}"

    @property
    def ca_file(self) -> Path | None:
        """What a client has to trust: the `ssl_ca_file` of an `[[aggregators]]` entry. `None` without TLS."""
        return None if self._tls_directory is None else self._tls_directory / CA_FILE

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def start(self) -> None:
        """Start it.

        Raises:
            ChildError: It does not start; quotes the end of its log.
        """
        argv = [sys.executable, "-m", "simulator.aggregators"]
        argv += [f"--name={self.name}", f"--dialect={self.dialect}", f"--seed={self._seed}"]
        argv += [f"--port={self._port}", f"--profile={self._profile}"]
        if self._tls_directory is not None:
            self._tls_directory.mkdir(parents=True, exist_ok=True)
            argv.append(f"--tls={self._tls_directory}")
        child = Child(
            f"aggregator {self.name}",
            argv,
            log_path=self._log_path,
            # Ours, with our import path: the program need not be installed or be started from the root.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
            is_ready=lambda started: _ready_port(started) is not None,
            ready_within_s=READY_WITHIN_S,
        )
        child.start()
        port = _ready_port(child)
        if port is None:
            child.kill()
            raise ChildError(f"aggregator {self.name} was ready but its log {self._log_path} no longer says so")
        self._child = child
        self._port = port

    def stop(self, grace_s: float = 5.0) -> int | None:
        """End it; returns the exit code, `None` if it was never started."""
        return None if self._child is None else self._child.stop(grace_s)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._child is not None:
            self._child.kill()

    def poll(self) -> int | None:
        """The exit code, or `None` while it runs (or was never started)."""
        return None if self._child is None else self._child.poll()

    def control(self, **changes: float | str | bool) -> Behaviour:
        """Change fields of the behaviour from the next request on; returns the whole, also without changes.

        Raises:
            CrashError: It does not answer, or refuses a field, value or mode.
        """
        if not changes:
            return msgspec.json.decode(self._exchange("GET", "/_control"), type=Behaviour)
        return msgspec.json.decode(self._exchange("POST", "/_control", msgspec.json.encode(changes)), type=Behaviour)

    def stats(self) -> Stats:
        """Counters since the start.

        Raises:
            CrashError: It does not answer.
        """
        return msgspec.json.decode(self._exchange("GET", "/_stats"), type=Stats)

    def notices(self) -> list[Notice]:
        """What it was told of its bids since the start; bounded, see `simulator.aggregators.notices`.

        Raises:
            CrashError: It does not answer.
        """
        return msgspec.json.decode(self._exchange("GET", "/_notices"), type=list[Notice])

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

    def _exchange(self, verb: str, path: str, body: bytes | None = None) -> bytes:
        connection = self._connection()
        try:
            connection.request(verb, path, body)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise CrashError(
                f"aggregator {self.name} does not answer {verb} {path}: {error!r}; see {self._log_path}"
            ) from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise CrashError(f"aggregator {self.name} refused {verb} {path}: {answer.decode(errors='replace').strip()}")
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        port = self._known_port()
        if self.ca_file is None:
            return http.client.HTTPConnection(HOST, port, timeout=CONTROL_TIMEOUT_S)
        context = ssl.create_default_context(cafile=self.ca_file)
        return http.client.HTTPSConnection(HOST, port, timeout=CONTROL_TIMEOUT_S, context=context)

    def _known_port(self) -> int:
        if self._port == 0:
            raise ChildError(f"aggregator {self.name} has no port yet; call start() first")
        return self._port


def _ready_port(child: Child) -> int | None:
    for line in child.output().splitlines():
        words = line.split()
        if words[:1] == ["READY"]:
            return int(words[1])
    return None
