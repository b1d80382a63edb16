"""BigQuery's tables: shape, columns, and who sees which column and row."""

from __future__ import annotations

import json
import re
from typing import Any

from datastreamx.tables import TABLES
from tests.k8s.terraform.evaluation import Plan, Resource

PERSONAL_COLUMNS = frozenset({"box_key"})


def tables_are_safe(plan: Plan) -> list[str]:
    """Partitioned by day, expiring, clustered, filter required, protected from deletion."""
    found = []
    for table in _tables(plan):
        (partitioning,) = table.values.get("time_partitioning") or [{}]
        if partitioning.get("type") != "DAY" or not partitioning.get("field"):
            found.append(f"{table.where} is not partitioned by day of a column")
        if not partitioning.get("expiration_ms", 0) > 0:
            found.append(f"{table.where} keeps its rows for ever")
        if not table.values.get("clustering"):
            found.append(f"{table.where} is not clustered")
        if table.values.get("require_partition_filter") is not True:
            found.append(f"{table.where} does not require a partition filter")
    found += [
        f"{table.where} is not protected from deletion"
        for table in plan.of_type("google_bigquery_table")
        if table.values.get("deletion_protection") is not True
    ]
    return found


def tables_are_the_programs(plan: Plan) -> list[str]:
    """The same tables, columns, partitions and clusters as datastreamx/tables.py."""
    tables = {table.values["table_id"]: table for table in _tables(plan)}
    found = [f"table {name} is missing" for name in TABLES if name not in tables]
    found += [f"{tables[name].where} is no table of the program" for name in tables if name not in TABLES]
    for name, wanted in TABLES.items():
        if name not in tables:
            continue
        table = tables[name]
        columns = [(c["name"], c["type"], c["mode"]) for c in json.loads(table.values["schema"])]
        if columns != [(c.name, c.kind.bigquery, "REQUIRED" if c.required else "NULLABLE") for c in wanted.columns]:
            found.append(f"{table.where} has other columns than the program writes")
        if table.values["clustering"] != list(wanted.cluster_by):
            found.append(f"{table.where} is not clustered by {wanted.cluster_by}")
        if [each["field"] for each in table.values.get("time_partitioning", ())] != [wanted.partition_by]:
            found.append(f"{table.where} is not partitioned by {wanted.partition_by}")
    return found


def pseudonyms_are_closed(plan: Plan) -> list[str]:
    """Columns of pseudonyms have a policy tag, views leave them out, and raw ids are in no table."""
    found = []
    for table in _tables(plan):
        for column in json.loads(table.values["schema"]):
            tags = column.get("policyTags", {}).get("names", [])
            if column["name"] in PERSONAL_COLUMNS and not tags:
                found.append(f"{table.where}: {column['name']} has no policy tag")
            if column["name"] == "box_id":
                found.append(f"{table.where} has raw box ids")
    for view in plan.of_type("google_bigquery_table"):
        for each in view.values.get("view", ()):
            selected = set(re.findall(r"`(\w+)`", each["query"]))
            if "*" in each["query"] or selected & PERSONAL_COLUMNS:
                found.append(f"{view.where} shows pseudonyms of boxes")
    plain = {each.values["member"] for each in plan.of_type("google_data_catalog_policy_tag_iam_member")}
    privacy = f"group:{plan.variables['groups'].value['privacy']}"
    found += [f"{member} reads pseudonyms plainly" for member in sorted(plain - {privacy})]
    return found


def readers_of_rows_are_named(plan: Plan) -> list[str]:
    """A table of boxes has row policies, everybody who can read the table is in one, and one grants all rows."""
    views = _dataset(plan, "views")
    tables = _dataset(plan, "main")
    readers = {access["group_by_email"] for access in views + tables if "group_by_email" in access}
    found = []
    for table in _tables(plan):
        name = table.values["table_id"]
        if not PERSONAL_COLUMNS & {column["name"] for column in json.loads(table.values["schema"])}:
            continue
        policies = [p for p in plan.of_type("google_bigquery_row_access_policy") if p.values["table_id"] == name]
        if not any(policy.values["filter_predicate"] == "TRUE" for policy in policies):
            found.append(f"{table.where}: no row policy lets anybody delete rows")
        grantees = {grantee for policy in policies for grantee in policy.values["grantees"]}
        of_table = {
            member.values["member"]
            for member in plan.of_type("google_bigquery_table_iam_member")
            if member.values["table_id"] == name
        }
        silent = ({f"group:{group}" for group in readers} | of_table) - grantees
        found += [f"{table.where}: {reader} reads the table and would see no row" for reader in sorted(silent)]
    return found


def viewing_is_sampled_for_data_scientists(plan: Plan) -> list[str]:
    """What boxes watched, event by event, data scientists see for a sample of boxes only."""
    scientists = f"group:{plan.variables['groups'].value['data_scientists']}"
    return [
        f"{policy.where} shows data scientists the viewing of all boxes"
        for policy in plan.of_type("google_bigquery_row_access_policy")
        if policy.values["table_id"] in {"box_events", "viewing_sessions"}
        and scientists in policy.values["grantees"]
        and "box_key" not in policy.values["filter_predicate"]
    ]


def _tables(plan: Plan) -> list[Resource]:
    return [table for table in plan.of_type("google_bigquery_table") if "view" not in table.values]


def _dataset(plan: Plan, name: str) -> list[dict[str, Any]]:
    (dataset,) = (each for each in plan.of_type("google_bigquery_dataset") if each.name == name)
    access: list[dict[str, Any]] = dataset.values["access"]
    return access
