from __future__ import annotations

import random
import threading

from hypothesis import given
from hypothesis import strategies as st

from datastreamx.acks import AckedOffsets


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50))))
def test_highest_is_the_maximum_whatever_the_order(acks: list[tuple[int, int]]) -> None:
    acked = AckedOffsets()
    for partition, offset in acks:
        acked.record(partition, offset)
    expected = {partition: max(o for p, o in acks if p == partition) for partition in {p for p, _ in acks}}
    assert acked.snapshot() == expected
    assert [acked.highest(partition) for partition in range(4)] == [expected.get(partition) for partition in range(4)]


def test_snapshot_is_a_copy() -> None:
    acked = AckedOffsets()
    acked.record(0, 1)
    acked.snapshot()[0] = 99
    assert acked.highest(0) == 1


def test_no_acknowledgement_is_lost_between_threads() -> None:
    acked = AckedOffsets()
    offsets = list(range(4_000))
    start = threading.Barrier(4)

    def record(seed: int) -> None:
        mine = offsets[seed::4]
        random.Random(seed).shuffle(mine)
        start.wait()
        for offset in mine:
            acked.record(offset % 7, offset)

    threads = [threading.Thread(target=record, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert acked.snapshot() == {partition: max(o for o in offsets if o % 7 == partition) for partition in range(7)}
