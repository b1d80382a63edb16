"""The least state of a box on Quix Streams, in an environment of its own, from an Apache Kafka of its own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from confluent_kafka import Producer

from benchmarks.contest import Contestant
from datastreamx.errors import CrashError
from flows.bench.machine import on_core
from tests.kafka.cluster import KafkaCluster

FOLDER = Path(__file__).parent
REQUIREMENTS = FOLDER / "requirements.txt"
TOPIC = "events"
BROKER_CORE = 1


@contextmanager
def quix(
    events: Iterable[tuple[str, bytes]], count: int, warm_up_share: float, directory: Path
) -> Iterator[Contestant | None]:
    """The contestant, and the broker that it reads from, with all events in it; nothing where one cannot be had.

    The broker has a core of its own where there are two. A single partition is the cheapest for the contestant: each
    one has a RocksDB of its own.

    Args:
        events: (box id, JSON), in order.
        count: How many they are.
        warm_up_share: Of the events.
        directory: For the broker and for the states, one for each turn.
    """
    with ExitStack() as resources:
        try:
            python = environment()
            with on_core(BROKER_CORE):
                cluster = resources.enter_context(KafkaCluster(nodes=1, directory=directory / "kafka"))
        except (CrashError, subprocess.CalledProcessError) as error:
            sys.stderr.write(f"Quix Streams is left out: {error}\n")
            yield None
            return
        cluster.create_topic(TOPIC)
        _fill(cluster.bootstrap, events)
        arguments = (cluster.bootstrap, TOPIC, str(count), str(warm_up_share), str(directory / "state"))
        yield Contestant(f"Quix Streams {version()}", (str(python), str(FOLDER / "state.py"), *arguments))


def version() -> str:
    """Of the package."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return next(line.split("==")[1].split()[0] for line in lines if line.startswith("quixstreams=="))


def environment(folder: Path = FOLDER / ".venv") -> Path:
    """Its Python; the environment is made once for each state of the requirements.

    Raises:
        subprocess.CalledProcessError: A package cannot be had.
    """
    python, mark = folder / "bin" / "python", folder / ".installed"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if not mark.exists() or mark.read_text(encoding="ascii") != wanted:
        sys.stderr.write(f"installing Quix Streams into {folder}, once\n")
        venv.create(folder, clear=True, with_pip=True)
        pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        arguments = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(REQUIREMENTS))
        subprocess.run((*pip, *arguments), check=True, stdout=sys.stderr)  # noqa: S603  ours
        mark.write_text(wanted, encoding="ascii")
    return python


def _fill(bootstrap: str, events: Iterable[tuple[str, bytes]]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "acks": 1})
    for box_id, value in events:
        while True:
            try:
                producer.produce(TOPIC, value, box_id)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(60):
        raise CrashError("the broker did not take all events in 60 s")
