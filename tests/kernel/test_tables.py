from __future__ import annotations

import typing

import pyarrow as pa
import pytest

from datastreamx.model.events import EVENT_TYPES, BoxEvent
from datastreamx.tables import FACT_TABLES, IMPRESSIONS, TABLES, Kind, Row, Table, record_batch

EVERY_TABLE = pytest.mark.parametrize("table", TABLES.values(), ids=str)
POSITION = ("source_partition", "key_group", "source_offset", "ordinal")

_SAMPLES = {
    Kind.INT64: 7,
    Kind.FLOAT64: 0.5,
    Kind.BOOL: True,
    Kind.STRING: "text",
    Kind.TIMESTAMP: 1_700_000_000_000_000,
}


def sample_row(table: Table, *, only_required: bool = False) -> Row:
    return tuple(None if only_required and not column.required else _SAMPLES[column.kind] for column in table.columns)


@EVERY_TABLE
def test_table_is_partitioned_by_a_required_timestamp(table: Table) -> None:
    (column,) = [column for column in table.columns if column.name == table.partition_by]
    assert column.kind is Kind.TIMESTAMP
    assert column.required


@EVERY_TABLE
def test_table_is_clustered_by_one_to_four_of_its_columns(table: Table) -> None:
    assert 1 <= len(table.cluster_by) <= 4
    assert set(table.cluster_by) <= {column.name for column in table.columns}
    assert len(set(table.cluster_by)) == len(table.cluster_by)


@EVERY_TABLE
def test_key_consists_of_required_columns(table: Table) -> None:
    assert set(table.key) <= {column.name for column in table.columns if column.required}


@EVERY_TABLE
def test_columns_have_distinct_names_and_a_description(table: Table) -> None:
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert table.description
    assert all(column.description for column in table.columns)


@EVERY_TABLE
def test_no_column_holds_a_raw_box_id(table: Table) -> None:
    assert "box_id" not in {column.name for column in table.columns}


@pytest.mark.parametrize("table", [*FACT_TABLES.values(), IMPRESSIONS], ids=str)
def test_fact_carries_its_position_in_the_log(table: Table) -> None:
    columns = {column.name: column for column in table.columns}
    assert all(columns[name].required and columns[name].kind is Kind.INT64 for name in POSITION)
    assert table.key == POSITION


@EVERY_TABLE
def test_column_that_was_added_later_is_nullable_and_stands_behind_all_earlier_ones(table: Table) -> None:
    """BigQuery appends; and rows of an earlier version are a prefix of those of a later one."""
    since = [column.since for column in table.columns]
    assert since == sorted(since)
    assert since[0] == 1
    assert since[-1] == table.version
    assert not any(column.required for column in table.columns if column.since > 1)


@EVERY_TABLE
def test_row_order_is_column_order(table: Table) -> None:
    batch = record_batch(table, [sample_row(table), sample_row(table, only_required=True)])
    assert batch.schema.names == [column.name for column in table.columns]
    full, sparse = batch.to_pylist()
    for column in table.columns:
        assert full[column.name] is not None
        assert (sparse[column.name] is None) is not column.required
    assert batch.schema == table.arrow_schema
    batch.validate(full=True)


@EVERY_TABLE
def test_row_of_another_length_is_refused(table: Table) -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        record_batch(table, [(*sample_row(table), 1)])
    with pytest.raises(ValueError, match=r"zip\(\)"):
        record_batch(table, [sample_row(table), sample_row(table)[:-1]])


@EVERY_TABLE
def test_schema_requires_what_the_columns_require(table: Table) -> None:
    assert [field.nullable for field in table.arrow_schema] == [not column.required for column in table.columns]


def test_every_kind_has_a_bigquery_name_and_an_arrow_type() -> None:
    assert {kind.bigquery: kind.arrow for kind in Kind} == {
        "INT64": pa.int64(),
        "FLOAT64": pa.float64(),
        "BOOL": pa.bool_(),
        "STRING": pa.string(),
        "TIMESTAMP": pa.timestamp("us", tz="UTC"),
    }


def test_event_types_are_those_of_the_structs() -> None:
    assert [struct.__struct_config__.tag for struct in typing.get_args(BoxEvent)] == list(EVENT_TYPES)
