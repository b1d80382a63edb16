"""The tables in Terraform are the program's: as files, and as BigQuery would hold them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.cloud import bigquery

from datastreamx.config.structs import BigQueryConfig
from datastreamx.errors import UnsafeTableError
from datastreamx.tables import TABLES
from simulator.bigquery.handle import LocalBigQuery
from sinks.bigquery.client import rest_client
from sinks.bigquery.schema import check_tables, plan_tables
from tests.k8s.terraform.evaluation import Resource, committed
from tests.k8s.terraform.folder import ENVIRONMENTS
from tests.k8s.terraform.schemas import SCHEMAS, wanted_files

pytestmark = pytest.mark.k8s


def test_committed_files_are_those_of_the_program() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in SCHEMAS.iterdir()}
    assert committed == wanted_files(), "run `python -m tests.k8s.terraform.schemas`"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBigQuery]:
    with LocalBigQuery(tmp_path_factory.mktemp("bigquery")) as running:
        yield running


@pytest.fixture
def config(server: LocalBigQuery, request: pytest.FixtureRequest) -> BigQueryConfig:
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    return BigQueryConfig(project="test", dataset=name, rest_endpoint=server.rest_url, grpc_endpoint=server.grpc_target)


@pytest.fixture
def client(config: BigQueryConfig) -> Iterator[bigquery.Client]:
    opened = rest_client(config)
    opened.create_dataset(bigquery.Dataset(f"{config.project}.{config.dataset}"))
    yield opened
    opened.close()  # type: ignore[no-untyped-call]


def tables(environment: str) -> list[dict[str, Any]]:
    plan = committed(environment)
    return [table.values for table in plan.of_type("google_bigquery_table") if _is_table(table)]


def make(client: bigquery.Client, config: BigQueryConfig, wanted: dict[str, Any]) -> None:
    """Create the table as the provider would: each argument is a field of the API's table."""
    (partitioning,) = wanted["time_partitioning"]
    resource = {
        "tableReference": {"projectId": config.project, "datasetId": config.dataset, "tableId": wanted["table_id"]},
        "description": wanted["description"],
        "schema": {"fields": json.loads(wanted["schema"])},
        "clustering": {"fields": wanted["clustering"]},
        "requirePartitionFilter": wanted["require_partition_filter"],
        "timePartitioning": {
            "type": partitioning["type"],
            "field": partitioning["field"],
            "expirationMs": str(partitioning["expiration_ms"]),
        },
    }
    client.create_table(bigquery.Table.from_api_repr(resource))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_apply_finds_nothing_to_do_where_terraform_has_made_the_tables(
    client: bigquery.Client, config: BigQueryConfig, environment: str
) -> None:
    assert len(plan_tables(client, config)) == len(TABLES)
    for wanted in tables(environment):
        make(client, config, wanted)
    assert plan_tables(client, config) == []
    check_tables(client, config)


@pytest.mark.parametrize(
    ("argument", "value", "says"),
    [
        ("clustering", ["outcome"], "is not clustered by aggregator,outcome,channel_id"),
        ("require_partition_filter", False, "does not require a partition filter"),
        (
            "time_partitioning",
            [{"type": "DAY", "field": "_received", "expiration_ms": 1}],
            "is not partitioned by day of decided_time",
        ),
    ],
)
def test_apply_refuses_a_table_that_terraform_made_otherwise(
    client: bigquery.Client, config: BigQueryConfig, argument: str, value: object, says: str
) -> None:
    (bids,) = (table for table in tables("prod") if table["table_id"] == "bids")
    if argument == "time_partitioning":
        columns = [*json.loads(bids["schema"]), {"name": "_received", "type": "TIMESTAMP", "mode": "NULLABLE"}]
        bids = {**bids, "schema": json.dumps(columns)}
    make(client, config, {**bids, argument: value})
    with pytest.raises(UnsafeTableError, match=says):
        plan_tables(client, config, [TABLES["bids"]])


def test_adding_a_column_keeps_the_policy_tags_of_the_others() -> None:
    # `datastreamx apply` sends back the fields that it has read, with its own behind them.
    (events,) = (table for table in tables("prod") if table["table_id"] == "box_events")
    read = [bigquery.SchemaField.from_api_repr(column) for column in json.loads(events["schema"])]
    sent = {field.name: field.to_api_repr() for field in read}
    assert sent["box_key"]["policyTags"]["names"] == ["${google_data_catalog_policy_tag.box_key.name}"]
    assert [name for name, column in sent.items() if "policyTags" in column] == ["box_key"]


def _is_table(table: Resource) -> bool:
    return "view" not in table.values
