"""After a restart nobody reads back what has been decided already, so that it is decided once more."""

from __future__ import annotations

from datastreamx.model.auction import DecidedAuction
from sources.kafka.decision_log import DecisionLog
from tests.chaos.planted.patch import patch

PROMISE = "decided_twice"


def plant() -> None:
    """Find the log empty."""

    def nothing(_log: DecisionLog, _partition: int, _from_offset: int | None) -> list[DecidedAuction]:
        return []

    patch(DecisionLog, "read_back", nothing)
