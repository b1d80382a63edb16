"""The model of fleets of other sizes: its arithmetic, against cases computed by hand."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.model import (
    BEGINS,
    ENDS,
    FLEETS,
    GIB,
    MIB,
    Costs,
    Plan,
    Prices,
    Size,
    Traffic,
    Value,
    divisor_from,
    fit,
    measured,
    partitions_for,
    size,
    tables,
    write,
)

MONTH_S = 730 * 3600


def of(boxes: int, costs: Costs | None = None, plan: Plan | None = None, traffic: Traffic | None = None) -> Size:
    return size(boxes, traffic or Traffic(), costs or Costs(), Prices(), plan or Plan())


def value(number: float) -> Value:
    return Value(number, "", "")


def saved(directory: Path, name: str, **content: object) -> None:
    (directory / f"{name}.json").write_bytes(msgspec.json.encode({"day": "2026-01-02", **content}))


def test_traffic_follows_from_boxes() -> None:
    found = of(300_000)
    assert found.events_s == pytest.approx(10_000)
    assert found.auctions_s == pytest.approx(500)
    assert found.calls_s == pytest.approx(1_500)


def test_cores_are_events_and_calls_at_the_peak() -> None:
    costs = Costs(event_us=value(10), call_us=value(100))
    found = of(300_000, costs)
    assert found.ads_cores == pytest.approx(2 * (10_000 * 10 + 1_500 * 100) / 1e6)
    assert found.call_share == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("costs", "limit", "most"),
    [
        (Costs(pause_ms=value(10), pause_ms_per_box=value(0.001)), "pause", 40_000),
        (Costs(resume_s=value(1), resume_s_per_box=value(0.0001)), "resume", 20_000),
        (Costs(box_bytes=value(200_000), cell_mib=value(0)), "memory", 4 * GIB / 1.5 / 200_000),
        # 0.5 of a core; events and calls of a box take (1,000 + 0.05 * 3 * 0) * 2 / 30 µs a second.
        (Costs(event_us=value(1_000), call_us=value(0)), "CPU", 0.5 / (1_000e-6 * 2 / 30)),
    ],
)
def test_what_is_scarcest_bounds_a_cell(costs: Costs, limit: str, most: float) -> None:
    found = of(300_000, costs)
    assert found.limit == limit
    assert found.cells == divisor_from(240, 300_000 / most)
    assert found.boxes_per_cell <= most


def test_a_neighbour_that_slows_a_cell_makes_more_of_them() -> None:
    alone = Costs(event_us=value(1_000))
    slowed = msgspec.structs.replace(alone, second_cell=value(0.5))
    assert of(300_000, slowed).cells > of(300_000, alone).cells


@pytest.mark.parametrize("boxes", FLEETS)
def test_cells_share_the_partitions_equally(boxes: int) -> None:
    found = of(boxes)
    assert found.partitions == partitions_for(boxes)
    assert found.partitions % found.cells == 0


def test_more_cells_than_partitions_are_refused() -> None:
    assert divisor_from(240, 239.5) == 240
    with pytest.raises(ValueError, match="241 cells cannot share 240 partitions"):
        divisor_from(240, 241)


def test_pause_and_resume_are_those_of_a_cell() -> None:
    found = of(300_000)
    assert found.cells == 4
    assert found.pause_ms == pytest.approx(5 + 75_000 * 0.0005)
    assert found.resume_s == pytest.approx(1.3 + 75_000 * 0.0000026)


def test_memory_is_rounded_up_to_quarters_and_not_below_one() -> None:
    costs = Costs(box_bytes=value(20_000))
    found = of(300_000, costs)
    needed_gib = (300 * MIB + 75_000 * 20_000) * 1.5 / GIB
    assert needed_gib <= found.cell_gib < needed_gib + 0.25
    assert of(30_000).cell_gib == 1


def test_small_messages_make_facts_large() -> None:
    """One row in a message pays the message's bytes alone; eight rows share them."""
    few, many = of(30_000), of(300_000)
    assert few.facts_rows_per_message == pytest.approx(1)
    assert many.facts_rows_per_message == pytest.approx(10_000 * 0.2 / 240)

    def bytes_s(boxes: int, rows: float) -> float:
        sessions_s = boxes * 4 / 86_400
        return boxes / 30 * (150 + 72 + 530 / rows + 0.05 * 1_310) + sessions_s * 602

    assert few.kafka_mib_s == pytest.approx(bytes_s(30_000, 1) / MIB)
    assert many.kafka_mib_s == pytest.approx(bytes_s(300_000, 10_000 * 0.2 / 240) / MIB)


def test_kafka_costs_bandwidth_and_what_is_kept_longer_than_a_day() -> None:
    found = of(3_000_000)
    kept_gib = found.kafka_mib_s * 48 * 3600 / 1024
    assert found.kafka_usd == pytest.approx(found.kafka_mib_s * 110 + kept_gib * 0.10)


def test_kafka_never_costs_less_than_its_smallest_cluster() -> None:
    assert of(3_000, plan=Plan(kafka_hours=value(24))).kafka_usd == pytest.approx(197)


def test_ingest_is_free_up_to_two_tebibytes() -> None:
    assert of(30_000).ingest_usd == 0
    found = of(300_000)
    assert found.ingest_usd == pytest.approx((found.warehouse_gib_month - 2_048) * 0.025)


def test_rows_are_those_of_all_tables() -> None:
    found = of(300_000)
    rollups_s = 240 * 200 * 4 / 60
    assert found.rows_s == pytest.approx(10_000 + 500 + 1_500 + 300 + 300_000 * 4 / 86_400 + rollups_s)
    others_s = 300 + 300_000 * 4 / 86_400 + rollups_s
    logical_s = 10_000 * 131 + 1_500 * 200 + 500 * 700 + others_s * 130
    assert found.warehouse_gib_month == pytest.approx(logical_s * MONTH_S / GIB)
    assert found.storage_usd == pytest.approx(logical_s * 90 * 86_400 / GIB * 0.02)


def test_rollups_are_no_more_than_what_they_count() -> None:
    quiet = of(300, traffic=Traffic(channels=value(10_000)))
    assert quiet.rows_s == pytest.approx(10 + 0.5 + 1.5 + 0.3 + 300 * 4 / 86_400 + 11.5)


def test_compute_is_three_processes_per_cell() -> None:
    hourly = 4 * (0.0445 * (1 + 2 * 0.5) + 0.0049225 * (1 + 2)) + 0.10
    assert of(300_000).compute_usd == pytest.approx(hourly * 730)


def test_total_is_the_sum_of_the_bill() -> None:
    found = of(3_000_000)
    assert found.total_usd == pytest.approx(found.compute_usd + found.kafka_usd + found.ingest_usd + found.storage_usd)


def test_fit_finds_the_line() -> None:
    assert fit([(10, 12.0), (20, 17.0), (40, 27.0)]) == pytest.approx((7.0, 0.5))
    assert fit([(10, 1.0), (20, 4.0)]) == pytest.approx((0.0, 0.3))
    assert fit([(10, 1.0)]) is None


def test_saved_results_replace_short_runs(tmp_path: Path) -> None:
    assert measured(tmp_path) == Costs()

    def standing(name: str, cpu_us: float, speed: float = 1.0) -> dict[str, object]:
        return {"name": name, "cpu_us": {"median": cpu_us}, "speed": {"median": speed}}

    def figure(name: str, median: float) -> dict[str, object]:
        return {"name": name, "value": {"median": median}}

    saved(tmp_path, "kafka", comparisons=[{"label": "", "standings": [standing("copy", 1), standing("whole flow", 9)]}])
    rows = [
        {"label": label, "standings": [standing("warehouse flow, null endpoint", us)]}
        for label, us in (("messages of up to 4,000 rows", 2), ("messages of 78 rows", 3))
    ]
    saved(tmp_path, "warehouse", comparisons=rows)
    turns = [standing("one cell", 5), standing("half a cell", 5, 1.1), standing("two cells", 5, 1.98)]
    saved(tmp_path, "scale", comparisons=[{"label": "", "standings": turns}])
    figures = [
        figure("pause at 10,000 boxes: p99", 9.0),
        figure("pause at 10,000 boxes: max", 99.0),
        figure("pause at 30,000 boxes: p99", 17.0),
        figure("pause at 1,000,000 boxes: p99", 9_000.0),
        figure("resume at 10,000 boxes", 1.6),
        figure("resume at 30,000 boxes", 1.8),
        figure("memory at 10,000 boxes", 900.0),
        figure("memory at 30,000 boxes", 700.0),
    ]
    saved(tmp_path, "recovery", figures=figures)
    found = measured(tmp_path)
    assert found.event_us.number == 9
    assert found.row_us.number == 3
    assert found.second_cell.number == pytest.approx(0.9)
    assert (found.pause_ms.number, found.pause_ms_per_box.number) == pytest.approx((5.0, 0.0004))
    assert (found.resume_s.number, found.resume_s_per_box.number) == pytest.approx((1.5, 0.00001))
    assert found.box_bytes.number == 700
    assert found.event_us.source == "`benchmarks.kafka`, 2026-01-02"
    assert found.call_us == Costs().call_us


def test_tables_show_every_input_with_its_source() -> None:
    inputs = (Traffic(), Costs(), Prices(), Plan())
    text = tables(*inputs)
    for group in inputs:
        for field in group.__struct_fields__:
            one: Value = getattr(group, field)
            assert f"| {one.unit} | {one.source} |" in text


def test_tables_go_between_the_markers(tmp_path: Path) -> None:
    document = tmp_path / "scaling.md"
    document.write_text(f"before\n{BEGINS}\nold\n{ENDS}\nafter\n", encoding="utf-8")
    write(document, "new")
    assert document.read_text(encoding="utf-8") == f"before\n{BEGINS}\n\nnew\n\n{ENDS}\nafter\n"


def test_a_document_without_markers_is_not_written(tmp_path: Path) -> None:
    document = tmp_path / "scaling.md"
    document.write_text(f"{ENDS}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks"):
        write(document, "new")
    assert document.read_text(encoding="utf-8") == f"{ENDS}\n"
