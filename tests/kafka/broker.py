"""One Kafka node: its folder, its JVM, and the storage tool that prepares its log directory."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from datastreamx.errors import CrashError
from simulator.processes import Child

_JVM_OPTIONS = (
    # Quick to start and small: no second compiler, no collector threads.
    *("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xms128m"),
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)
_STOP_TIMEOUT_S = 30.0
_FORMAT_TIMEOUT_S = 60.0
_OUTPUT_TAIL_CHARS = 2_000


class Broker:
    """Starts and ends the JVM of one node; everything that it writes goes to `directory`.

    Args:
        name: How errors call the node.
        java: Path of the Java launcher.
        jars: Folder of the server's jars.
        directory: The node's own folder; made if missing.
        heap_mb: The largest heap, in MiB.
        cluster_id: 22 characters of URL-safe base64, the same for every node and every start.
    """

    def __init__(self, name: str, *, java: str, jars: Path, directory: Path, heap_mb: int, cluster_id: str) -> None:
        self.data_directory = directory / "data"
        self._name = name
        self._java = (java, f"-Xmx{heap_mb}m", *_JVM_OPTIONS, "-cp", f"{jars}/*")
        self._cluster_id = cluster_id
        self._directory = directory
        self._properties = directory / "server.properties"
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """The process id while the node runs."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def start(self, properties: str) -> None:
        """Prepare an empty log directory, keep one that has data, and start the JVM; it is not ready on return.

        Args:
            properties: The text of `server.properties`.

        Raises:
            CrashError: The node runs already, or Kafka's storage tool refused the settings.
        """
        if self.pid is not None:
            raise CrashError(f"{self._name} runs already as process {self.pid}: stop it first")
        self._directory.mkdir(parents=True, exist_ok=True)
        self._properties.write_text(properties)
        self._format()
        self._child = Child(
            self._name,
            (*self._java, "kafka.Kafka", str(self._properties)),
            log_path=self._directory / "server.log",
            cwd=self._directory,
        )
        self._child.start()

    def check_alive(self) -> None:
        """Return if the JVM runs.

        Raises:
            CrashError: It ended by itself; the message ends with its log.
        """
        if self.pid is None:
            raise CrashError(f"{self._name} ended by itself:\n{self.log_tail()}")

    def stop(self) -> None:
        """Send SIGTERM: the node hands its leaderships over and closes its logs. Nothing happens if it does not run.

        Raises:
            CrashError: It did not end in time, and was killed.
        """
        if self._child is None or self.pid is None:
            return
        if self._child.stop(_STOP_TIMEOUT_S) == -signal.SIGKILL:
            raise CrashError(
                f"{self._name} did not end within {_STOP_TIMEOUT_S:g} s of SIGTERM and was killed: it leaves through"
                f" its controllers, so most nodes have to run\n{self.log_tail()}"
            )

    def kill(self) -> None:
        """Send SIGKILL and wait until the process is gone. Nothing happens if it does not run."""
        if self._child is not None:
            self._child.kill()

    def log_tail(self) -> str:
        """The end of what the node wrote since its last start."""
        return self._child.log_tail() if self._child is not None else f"{self._name} was never started"

    def _format(self) -> None:
        command = (
            *(*self._java, "kafka.tools.StorageTool", "format", "--ignore-formatted"),
            *("--cluster-id", self._cluster_id, "--config", str(self._properties)),
        )
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_FORMAT_TIMEOUT_S)
        if done.returncode != 0:
            output = (done.stdout + done.stderr)[-_OUTPUT_TAIL_CHARS:]
            raise CrashError(f"{self._name}: Kafka's storage tool refused {self._properties}:\n{output}")
