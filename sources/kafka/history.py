"""The snapshots of one reader: where they let it begin, and how they are told to the broker."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from datastreamx.log import get_logger
from sources.kafka.positions import Layout, Positions, decode_positions
from sources.kafka.reader import PartitionReader
from sources.kafka.start import StartPosition
from sources.kafka.witness import Lineage, agree

_log = get_logger("source")


def random_lineage() -> str:
    """Eight hexadecimal digits."""
    return secrets.token_hex(4)


@dataclass(frozen=True)
class Beginning:
    """How a source begins.

    Attributes:
        start: Where to, when there is no state.
        accept_store: Go on with a recovery store (or without one) although the broker tells of a newer one.
        make_lineage: Makes the id of a new lineage.
    """

    start: StartPosition
    accept_store: bool = False
    make_lineage: Callable[[], str] = random_lineage


class History:
    """Counts the snapshots of a reader, and commits each as soon as it is known to be durable.

    Committed is nothing but what is proven, also when the source ends: a witness that told more would refuse a sound
    store.
    """

    def __init__(self, reader: PartitionReader, layout: Layout, lineages: dict[int, Lineage]) -> None:
        self._reader = reader
        self._layout = layout
        self._lineages = lineages
        self._unproven: Positions | None = None

    @classmethod
    def begin(
        cls, reader: PartitionReader, layout: Layout, resume_state: bytes | None, beginning: Beginning
    ) -> History:
        """Start `reader` where the snapshot says; raises also what `PartitionReader.start` does.

        Raises:
            StateMismatchError: The snapshot is damaged, or belongs to other topics, partitions or key groups.
            StaleStoreError: The broker tells of snapshots that the recovery store does not hold.
        """
        stored = None if resume_state is None else decode_positions(resume_state, layout)
        lineages, accepted = agree(
            None if stored is None else stored.held,
            reader.evidence(),
            layout.partitions,
            accept=beginning.accept_store,
            make_lineage=beginning.make_lineage,
        )
        for problem in accepted:
            _log.warning("source.store_accepted", problem=problem)
        reader.start(beginning.start if stored is None else stored.next_offsets)
        return cls(reader, layout, lineages)

    def take(self) -> bytes:
        """A snapshot, for the recovery store."""
        is_proven = self._reader.has_committed
        self._lineages = {
            number: lineage.after_snapshot(is_proven=is_proven) for number, lineage in self._lineages.items()
        }
        self._unproven = Positions.of(self._layout, self._reader.positions, self._lineages)
        return self._unproven.seal()

    def prove(self) -> bool:
        """Commit the last snapshot if that is news; whether it is.

        To be called whenever Bytewax asks the source for items: it does so only when the epoch before is durable
        (decision 0003).
        """
        proven, self._unproven = self._unproven, None
        if proven is None:
            return False
        self._reader.commit(proven)
        return True
