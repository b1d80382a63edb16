"""One Kafka node as a child process that cannot outlive the test run."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from pathlib import Path

from datastreamx.errors import CrashError

_JVM_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xms128m", "-Djava.awt.headless=true")
_LOG_OPTIONS = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=info", "-Dorg.slf4j.simpleLogger.showDateTime=true")
_KILL_TIMEOUT_S = 10
_FORMAT_TIMEOUT_S = 60
_LOG_TAIL_BYTES = 4_000


class Broker:
    """Starts and ends the JVM of one node.

    The JVM gets SIGKILL from the kernel when the *thread* that started it ends, however that happens, so start
    brokers from a thread that lives as long as they should.
    """

    def __init__(self, *, java: str, jars: Path, directory: Path, heap_mb: int, cluster_id: str) -> None:
        self.directory = directory
        self._java = java
        self._classpath = f"{jars}/*"
        self._heap_mb = heap_mb
        self._cluster_id = cluster_id
        self._properties = directory / "server.properties"
        self._log = directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while the node runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def format(self, properties: str) -> None:
        """Write `server.properties` and prepare the empty log directory; data that exists is kept.

        Raises:
            CrashError: Kafka's storage tool refused the settings.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._properties.write_text(properties)
        command = [
            *self._jvm("kafka.tools.StorageTool"),
            *("format", "--ignore-formatted", "--cluster-id", self._cluster_id, "--config", str(self._properties)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_FORMAT_TIMEOUT_S)
        if done.returncode != 0:
            raise CrashError(f"kafka.tools.StorageTool refused {self._properties}:\n{done.stdout[-2000:]}{done.stderr}")

    def start(self) -> None:
        """Start the JVM and return at once; the node is not ready yet.

        Raises:
            CrashError: It runs already, or `setpriv` is missing.
        """
        if self.pid is not None:
            raise CrashError(f"the Kafka node in {self.directory} runs already (pid {self.pid}): stop it first")
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise CrashError("setpriv is not on the PATH, and it ties the brokers' life to ours: install util-linux 2.33+")
        command = [setpriv, "--pdeathsig", "KILL", *self._jvm("kafka.Kafka"), str(self._properties)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory, start_new_session=True
            )

    def check_alive(self) -> None:
        """Return if the JVM runs.

        Raises:
            CrashError: It ended by itself; the message ends with its log.
        """
        if self._process is not None and self._process.poll() is not None:
            raise CrashError(
                f"the Kafka node in {self.directory} ended with code {self._process.returncode}:\n{self.log_tail()}"
            )

    def request_stop(self) -> None:
        """Send SIGTERM: the node hands its partitions over and closes its logs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the JVM; return whether it ended in time."""
        if self._process is None:
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self._process.poll() is not None

    def kill(self) -> None:
        """Send SIGKILL and wait until the process is gone. A node that does not run stays as it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_KILL_TIMEOUT_S)

    def log_tail(self) -> str:
        """Return the end of what the node wrote."""
        return self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace") if self._log.exists() else ""

    def _jvm(self, main_class: str) -> list[str]:
        return [self._java, f"-Xmx{self._heap_mb}m", *_JVM_OPTIONS, *_LOG_OPTIONS, "-cp", self._classpath, main_class]
