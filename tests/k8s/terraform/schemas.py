"""The tables for Terraform: `python -m tests.k8s.terraform.schemas` writes k8s/terraform/schemas anew.

A test compares the committed files with the program's definitions, so that a new column shows in review and Terraform
never knows another table than the program.
"""

from __future__ import annotations

import json

from datastreamx.tables import TABLES, Table
from tests.k8s.terraform.folder import TERRAFORM

SCHEMAS = TERRAFORM / "schemas"


def schema_text(table: Table) -> str:
    """What Terraform has to know of a table: columns as BigQuery's API names them, partition and cluster."""
    columns = [
        {
            "name": column.name,
            "type": column.kind.bigquery,
            "mode": "REQUIRED" if column.required else "NULLABLE",
            "description": column.description,
        }
        for column in table.columns
    ]
    known = {
        "description": table.description,
        "partition_by": table.partition_by,
        "cluster_by": table.cluster_by,
        "columns": columns,
    }
    return json.dumps(known, indent=2) + "\n"


def wanted_files() -> dict[str, str]:
    """Content of every file that belongs into the folder, by name."""
    return {f"{name}.json": schema_text(table) for name, table in TABLES.items()}


def main() -> None:
    """Write all files, and take away those of tables that are no more."""
    SCHEMAS.mkdir(exist_ok=True)
    files = wanted_files()
    for stale in SCHEMAS.glob("*.json"):
        if stale.name not in files:
            stale.unlink()
    for name, text in files.items():
        (SCHEMAS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
