"""What a campaign is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Mode = Literal["cells", "cluster"]
BrokerKind = Literal["tansu", "kafka"]

KILLS_PER_ROUND = 40
"""The local broker looks through a whole partition for every fetch, so a campaign begins anew now and then."""

_CELLS, _BOXES, _EPOCH_MS = 2, 150, 400
_NODES: Literal[1] = 1
_FLOWS = frozenset({"ads", "warehouse", "notices"})


@dataclass(frozen=True, kw_only=True)
class Options:
    """One campaign.

    Attributes:
        kills: How often processes are killed or stopped; the other faults come in addition.
        seed: Decides what viewers do, which faults come, where and when.
        cells: Cells of each flow at the beginning, or processes of each cluster.
        nodes: Of Apache Kafka; leaders move only among three.
        boxes: Boxes that live meanwhile.
        epoch_ms: Between two snapshots; the longer, the more a kill takes back.
        quiet_s: Whatever is still missing at the end after so long without any progress is lost.
        starts_again: At the end, one more clean start and stop have to add nothing.
        slow: Also faults that take half a minute and longer.
        flows: What is killed; what the flows depend on fails for all of them.
        only: Kinds of faults to which the campaign is limited; empty: all. `without`: kinds that are left out.
        plants: Bugs planted into the flows, see `tests.chaos.planted`.
        keep: Where configuration, stores and logs go; unset: a folder that is removed unless something is found.
    """

    kills: int = 20
    seed: int = 1
    mode: Mode = "cells"
    broker: BrokerKind = "tansu"
    cells: int = _CELLS
    nodes: Literal[1, 3] = _NODES
    boxes: int = _BOXES
    epoch_ms: int = _EPOCH_MS
    quiet_s: float = 15.0
    starts_again: bool = True
    slow: bool = False
    flows: frozenset[str] = _FLOWS
    only: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    plants: tuple[str, ...] = ()
    keep: Path | None = None

    @property
    def rounds(self) -> list[int]:
        """Kills of each round."""
        count = max(1, -(-self.kills // KILLS_PER_ROUND))
        return [self.kills // count + (number < self.kills % count) for number in range(count)]

    @property
    def command(self) -> str:
        """What repeats the campaign. Faults and their order are the same; moments are as the machine has it."""
        given = {
            "kills": self.kills,
            "seed": self.seed,
            "mode": self.mode,
            "broker": self.broker,
            "cells": self.cells,
            "nodes": self.nodes,
            "boxes": self.boxes,
            "epoch-ms": self.epoch_ms,
            "flows": ",".join(sorted(self.flows)),
            "only": ",".join(sorted(self.only)),
            "without": ",".join(sorted(self.without)),
            "plant": ",".join(self.plants),
        }
        default = {
            "cells": _CELLS,
            "nodes": _NODES,
            "boxes": _BOXES,
            "epoch-ms": _EPOCH_MS,
            "flows": ",".join(sorted(_FLOWS)),
        }
        words = [f"--{name} {value}" for name, value in given.items() if value != default.get(name, "")]
        return " ".join(["python -m tests.chaos", *words, *(["--slow"] if self.slow else [])])
