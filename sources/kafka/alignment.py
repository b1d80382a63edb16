"""Topics that are read together go forward together.

What joins two topics keeps time by the newest record of either, and gives up on what waits too long by that clock.
After an outage of hours one topic would be read hours ahead of the other, and nothing would find its match. So records
are handed on by their Kafka timestamps: of each partition number none that is further than the slack ahead of what
another topic still has to give. Whatever one poll hands on then lies within the slack, however little or much it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from sources.kafka.chunks import Run
from sources.kafka.partition import PartitionState
from sources.kafka.start import PartitionId

HELD_BYTES_MAX = 16_000_000
"""Of all partitions together; one poll more, because a partition is paused only when it holds its share."""
SHARE_BYTES_MIN = 1_000_000
"""Of one partition, however many there are: it has to hold a large batch of facts without being paused for it."""


def horizon_ms(reaches_ms: Iterable[int | None], slack_ms: int) -> int | None:
    """Time up to which the topics of a partition may be handed on; `None`: all that there is.

    The topic whose next record is the oldest is always within the horizon, so somebody always goes on.

    Args:
        reaches_ms: Per topic, see `PartitionState.reach_ms`.
        slack_ms: How far one may be ahead of another.
    """
    return min((reach + slack_ms for reach in reaches_ms if reach is not None), default=None)


class Alignment:
    """Hands on what the partitions hold, and lets the client pause those that hold much.

    Pausing costs: the client drops what it has fetched of a partition and fetches it again later, from where it was
    read. So a partition is paused only when it holds its share of `HELD_BYTES_MAX`, and resumed at half of that.

    Args:
        partitions: Of all topics.
        slack_ms: How far one topic may be ahead of another.
        pause: Told which partition the client shall not fetch.
        resume: Told which it shall fetch again.
    """

    def __init__(
        self,
        partitions: Mapping[PartitionId, PartitionState],
        slack_ms: int,
        pause: Callable[[PartitionId], None],
        resume: Callable[[PartitionId], None],
    ) -> None:
        self._slack_ms = slack_ms
        self._pause = pause
        self._resume = resume
        self._share_bytes = max(SHARE_BYTES_MIN, HELD_BYTES_MAX // max(1, len(partitions)))
        self._by_number: dict[int, list[tuple[PartitionId, PartitionState]]] = {}
        for partition, state in partitions.items():
            self._by_number.setdefault(partition[1], []).append((partition, state))
        self._holding: set[int] = set()

    def release(self, touched: set[int]) -> list[Run]:
        """What may be handed on now, each partition in log order.

        Args:
            touched: Numbers of the partitions that got records or came to their end since the last call.
        """
        runs: list[Run] = []
        for number in sorted(touched | self._holding):
            topics = self._by_number[number]
            horizon = horizon_ms([state.reach_ms for _, state in topics], self._slack_ms)
            for partition, state in topics:
                messages = state.release(horizon)
                if messages:
                    runs.append(Run(*partition, messages))
                self._keep_within_share(partition, state)
            if any(state.is_holding for _, state in topics):
                self._holding.add(number)
            else:
                self._holding.discard(number)
        return runs

    def _keep_within_share(self, partition: PartitionId, state: PartitionState) -> None:
        # One that is over was paused once and for all.
        if state.is_over:
            return
        if state.is_paused and state.held_bytes <= self._share_bytes // 2:
            state.is_paused = False
            self._resume(partition)
        elif not state.is_paused and state.held_bytes > self._share_bytes:
            state.pause()
            self._pause(partition)
