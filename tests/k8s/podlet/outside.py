"""What stands outside of the cluster, and how its pods reach it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from simulator.broker import executable
from simulator.processes import Child

_READY_WITHIN_S = 15.0


@dataclass(frozen=True)
class Outside:
    """A name that pods may call.

    Attributes:
        name: As they call it.
        address: On the harness's bridge, so this machine reaches it, too.
        namespace: In which NetworkPolicies see it; `None`: it is no pod of any.
    """

    name: str
    address: str
    namespace: str | None


def broker(outside: Outside, port: int, log_dir: Path) -> Child:
    """Make the simulator's broker, in memory, that listens and advertises itself under an outside address.

    Args:
        outside: Whose address.
        port: On that address.
        log_dir: Where `broker.log` goes.
    """
    listener = f"tcp://{outside.address}:{port}"
    argv = [str(executable(log_dir)), "broker", f"--cluster-id={outside.name}", "--storage-engine=memory://tansu/"]
    return Child(
        "broker",
        [*argv, f"--listener-url={listener}", f"--advertised-listener-url={listener}"],
        log_path=log_dir / "broker.log",
        env={"PATH": os.environ.get("PATH", ""), "RUST_LOG": "error"},
        is_ready=lambda _child: _answers(f"{outside.address}:{port}"),
        ready_within_s=_READY_WITHIN_S,
    )


def _answers(bootstrap: str) -> bool:
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    try:
        client.list_topics(timeout=1)
    except KafkaException:
        return False
    return True
