from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest

from datastreamx.config.structs import TopicsConfig
from datastreamx.tables import AD_DECISIONS, MINUTE_ROLLUPS, Table
from sinks.bigquery.rows import REQUEST_OVERHEAD_BYTES, RefusedRow, dead_letter, pack, screen

from .bigquery_model import CLOCK_START_MS, ROWS, batch

DAY_MS = 86_400_000


def one_row(table: Table, **values: object) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([values], schema=table.arrow_schema)


def test_batches_are_joined_in_order() -> None:
    packed = pack([batch([1, 2]), batch([3]), batch([4, 5])], ROWS, 1_000_000, CLOCK_START_MS)
    (block,) = packed.blocks
    assert block.rows.column("id").to_pylist() == [1, 2, 3, 4, 5]
    assert pa.ipc.read_record_batch(pa.py_buffer(block.body), ROWS.arrow_schema).equals(block.rows)


def test_a_slice_is_sent_without_the_rest_of_its_buffers() -> None:
    (block,) = pack([batch(range(100_000)).slice(500, 10)], ROWS, 1_000_000, CLOCK_START_MS).blocks
    assert len(block.body) < 3_000


@pytest.mark.parametrize("long_rows", [0, 1, 7])
def test_every_request_fits_and_no_row_is_lost_however_uneven_rows_are(long_rows: int) -> None:
    limit = 100_000
    batches = [batch(range(1000)), batch(range(1000, 1000 + long_rows), note="n" * 80_000), batch(range(2000, 3000))]
    packed = pack(batches, ROWS, limit, CLOCK_START_MS)
    ids = [i for block in packed.blocks for i in block.rows.column("id").to_pylist()]
    assert ids == [*range(1000), *range(1000, 1000 + long_rows), *range(2000, 3000)]
    assert all(len(block.body) <= limit - REQUEST_OVERHEAD_BYTES for block in packed.blocks)
    assert packed.refused == []


@pytest.mark.parametrize("age_days", [-363, 0, 3_648])
def test_partition_times_within_the_limits_of_bigquery_pass_untouched(age_days: int) -> None:
    rows = batch([1, 2], time_ms=CLOCK_START_MS - age_days * DAY_MS)
    good, refused = screen(rows, ROWS, CLOCK_START_MS)
    assert good is rows
    assert refused == []


@pytest.mark.parametrize("age_days", [-366, 3_651, 20_000])
def test_partition_times_beyond_the_limits_of_bigquery_are_set_aside(age_days: int) -> None:
    rows = pa.concat_batches([batch([1]), batch([2], time_ms=CLOCK_START_MS - age_days * DAY_MS), batch([3])])
    good, refused = screen(rows, ROWS, CLOCK_START_MS)
    assert good.column("id").to_pylist() == [1, 3]
    assert [row.rows.column("id").to_pylist() for row in refused] == [[2]]
    assert "event_time" in refused[0].detail


def test_a_row_without_a_required_value_is_set_aside() -> None:
    rows = batch([1, 2]).set_column(0, ROWS.arrow_schema.field(0), pa.array([None, 2], pa.int64()))
    good, refused = screen(rows, ROWS, CLOCK_START_MS)
    assert good.column("id").to_pylist() == [2]
    assert refused[0].detail == "id is required and has no value"


def test_dead_letter_carries_the_whole_row_and_its_origin() -> None:
    row = RefusedRow(batch([7], note="why"), "bigquery_row", "spoiled")
    letter = dead_letter(row, ROWS, TopicsConfig(events="evts"))
    assert (letter.topic, letter.partition, letter.offset, letter.timestamp_ms) == ("evts", 3, 1007, CLOCK_START_MS)
    assert letter.value is not None
    assert msgspec.json.decode(letter.value) == {
        "table": "rows",
        "row": {
            "id": 7,
            "event_time": CLOCK_START_MS * 1000,
            "note": "why",
            "source_partition": 3,
            "source_offset": 1007,
        },
    }


def test_dead_letter_of_a_decision_points_into_the_decisions_topic() -> None:
    row = RefusedRow(one_row(AD_DECISIONS, log_partition=2, log_offset=44), "bigquery_row", "x")
    letter = dead_letter(row, AD_DECISIONS, TopicsConfig())
    assert (letter.topic, letter.partition, letter.offset) == ("ad-decisions", 2, 44)


def test_dead_letter_of_an_aggregate_has_no_single_origin() -> None:
    row = RefusedRow(one_row(MINUTE_ROLLUPS, events=1), "bigquery_row", "x")
    letter = dead_letter(row, MINUTE_ROLLUPS, TopicsConfig())
    assert (letter.topic, letter.partition, letter.offset) == ("", -1, -1)


def test_dead_letter_survives_a_time_beyond_the_calendar() -> None:
    far = 9_000_000_000_000_000  # milliseconds: the year 287,000
    letter = dead_letter(RefusedRow(batch([1], time_ms=far), "bigquery_row", "x"), ROWS, TopicsConfig())
    assert letter.timestamp_ms == far
