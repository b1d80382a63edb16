from __future__ import annotations

import msgspec
import pytest

from flows.bench.capacity import USE, Costs, Load, capacity, roughly

COSTS = Costs(event_cpu_us=3.0, snapshot_cpu_us=0.4, box_bytes=1024.0, process_mib=256.0)
PLENTY_MIB = 1e6


def test_a_core_spends_half_its_time_on_events_and_snapshots() -> None:
    found = capacity(COSTS, 1, PLENTY_MIB)
    # 3 µs each 30 s and 0.4 µs each second: half a microsecond of CPU per second and box.
    assert found.boxes == 1_000_000
    assert (found.cells, found.limit) == (1, "cpu")
    busy_s = found.boxes * (COSTS.event_cpu_us / 30 + COSTS.snapshot_cpu_us) / 1e6
    assert busy_s == pytest.approx(USE)


def test_every_core_is_a_cell_and_carries_as_much() -> None:
    one, four = capacity(COSTS, 1, PLENTY_MIB), capacity(COSTS, 4, PLENTY_MIB)
    assert (four.boxes, four.cells) == (4 * one.boxes, 4)
    assert four.snapshot_pause_ms == one.snapshot_pause_ms == pytest.approx(400.0)
    assert four.events_per_s == pytest.approx(4_000_000 / 30)


def test_memory_limits_after_what_the_processes_need_themselves() -> None:
    found = capacity(COSTS, 2, 2_048.0)
    # Half of it is 1,024 MiB; two processes take 512 of them, and a KiB per box the rest.
    assert (found.boxes, found.limit) == (512 * 1024, "memory")


def test_a_machine_too_small_for_its_processes_carries_none() -> None:
    assert capacity(COSTS, 2, 512.0).boxes == 0


def test_auctions_take_their_share_of_every_event() -> None:
    with_auctions = msgspec.structs.replace(COSTS, auctions_cpu_us=15.0)
    assert capacity(with_auctions, 1, PLENTY_MIB).boxes == 500_000


def test_rarer_snapshots_and_events_leave_room_for_more_boxes() -> None:
    assert capacity(COSTS, 1, PLENTY_MIB, Load(event_interval_s=60.0, snapshot_interval_s=2.0)).boxes == 2_000_000


@pytest.mark.parametrize(("boxes", "said"), [(0, 0), (7, 7), (99, 99), (1_234_567, 1_200_000), (999_999, 990_000)])
def test_two_digits_are_promised_and_never_more_than_was_found(boxes: int, said: int) -> None:
    assert roughly(boxes) == said
