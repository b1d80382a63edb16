"""Key groups: the unit of state, ordering and replay.

A box belongs to the Kafka partition that its id hashes to and, within it, to one of `groups_per_partition` key groups.
All state of a box lives in its key group's logic (decision 0001): Bytewax sees hundreds of keys instead of hundreds of
thousands, and a replay reaches each key group in the log's own order.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple


class KeyGroup(NamedTuple):
    """One key group of one Kafka partition; `key` is its Bytewax key and must never change its form."""

    partition: int
    group: int

    @property
    def key(self) -> str:
        """The Bytewax key, e.g. `p007g2`."""
        return f"p{self.partition:03d}g{self.group}"

    @classmethod
    def parse(cls, key: str) -> KeyGroup:
        """Invert `key`."""
        partition, _, group = key[1:].partition("g")
        return cls(int(partition), int(group))


def group_of(record_key: bytes, groups_per_partition: int) -> int:
    """Key group of a record within its partition.

    CRC-32 and not the murmur2 that chose the partition: the same hash would put all boxes of a partition whose count
    shares a factor with `groups_per_partition` into one group.
    """
    return zlib.crc32(record_key) % groups_per_partition
