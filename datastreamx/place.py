"""Which share of the work this process has: a cell with partitions of its own, or one process of a cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from datastreamx.config import Config
from datastreamx.errors import ConfigError

ORDINAL_VARIABLE = "DATASTREAMX_ORDINAL"


@dataclass(frozen=True)
class Place:
    """One process among those of its flow.

    A cell reads its own Kafka partitions and shares nothing with the other cells. The processes of a cluster exchange
    items among each other, and one of them, ordinal 0, keeps the recovery store of all (decision 0032).

    Attributes:
        mode: `cells` or `cluster`.
        ordinal: Number of this process, from 0.
        count: Number of processes.
        addresses: `host:port` of every process of a cluster, in the order of their ordinals; empty for cells.
    """

    mode: Literal["cells", "cluster"] = "cells"
    ordinal: int = 0
    count: int = 1
    addresses: tuple[str, ...] = ()

    @property
    def readers(self) -> int:
        """Source parts in which this process has its share: one for a cell, one for each process of a cluster."""
        return 1 if self.mode == "cells" else self.count

    @property
    def keeps_store(self) -> bool:
        """Whether the recovery store is this process's."""
        return self.mode == "cells" or self.ordinal == 0

    def partitions(self, partitions: int) -> range:
        """Kafka partitions, of `partitions` in all, that the sources of this process name."""
        return range(self.ordinal, partitions, self.count) if self.mode == "cells" else range(partitions)

    def store_name(self, flow: str) -> str:
        """Folder of the recovery store below `recovery.directory`; an empty one for the other processes of a cluster.

        Examples:
            `ads-0` (first cell), `ads-cluster` (process that keeps the store), `ads-cluster-peer-1`.
        """
        if self.mode == "cells":
            return f"{flow}-{self.ordinal}"
        return f"{flow}-cluster" if self.keeps_store else f"{flow}-cluster-peer-{self.ordinal}"


def place_of(config: Config, ordinal: int | None = None) -> Place:
    """Place of this process.

    Args:
        config: `scaling` and `events.partitions` matter here.
        ordinal: Number of this process; unset: what the environment variable `DATASTREAMX_ORDINAL` says, else 0.

    Raises:
        ConfigError: There is no such ordinal.
    """
    scaling = config.scaling
    count = scaling.cells if scaling.mode == "cells" else len(scaling.addresses)
    source = "--ordinal"
    if ordinal is None:
        text, source = os.environ.get(ORDINAL_VARIABLE, "0"), ORDINAL_VARIABLE
        if not text.isdecimal():
            raise ConfigError("the environment", [f"{ORDINAL_VARIABLE} is {text!r}; it has to be a number from 0"])
        ordinal = int(text)
    if not 0 <= ordinal < count:
        kind = "cells" if scaling.mode == "cells" else "processes in scaling.addresses"
        raise ConfigError(source, [f"it is {ordinal}, but there are {count} {kind}: it has to be 0 to {count - 1}"])
    return Place(scaling.mode, ordinal, count, scaling.addresses if scaling.mode == "cluster" else ())
