"""The REST API's tables, as BigQuery keeps and changes them; these routes go before `bqemulator`'s."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from bqemulator.api.routes import tables
from bqemulator.domain.errors import AlreadyExistsError, ResourceRef, ValidationError, resource_not_found
from bqemulator.domain.events import TableSchemaChanged
from bqemulator.storage.sql_identifiers import quoted_table_ref
from bqemulator.storage.type_map import bq_schema_to_duckdb_columns
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.bigquery.edited_request import EditedRequest

if TYPE_CHECKING:
    from bqemulator.api.dependencies import AppContext
    from bqemulator.catalog.models import TableFieldSchema, TableMeta
    from starlette.requests import Request

    from simulator.bigquery.engine import LocalEngine

CLUSTERING_COLUMNS_MAX = 4

_TABLES = "/bigquery/v2/projects/{project_id}/datasets/{dataset_id}/tables"


class PreconditionFailedError(AlreadyExistsError):
    """The `If-Match` header names an older version of the resource."""

    http_status = 412
    bq_reason = "conditionNotMet"
    grpc_status_name = "FAILED_PRECONDITION"


class TableRoutes:
    """`tables.insert`, `get`, `patch` and `update`."""

    def __init__(self, context: AppContext, engine: LocalEngine) -> None:
        self._context = context
        self._engine = engine

    def routes(self) -> list[Route]:
        """Routes to put before stock's."""
        return [
            Route(_TABLES, self.insert, methods=["POST"]),
            Route(_TABLES + "/{table_id}", self.get, methods=["GET"]),
            Route(_TABLES + "/{table_id}", self.patch, methods=["PATCH"]),
            Route(_TABLES + "/{table_id}", self.update, methods=["PUT"]),
        ]

    async def insert(self, request: Request) -> Response:
        """Create a table and keep `requirePartitionFilter`; refuse what BigQuery refuses.

        BigQuery keeps the filter rule at the top level of the table. Stock knows it only in its old place inside
        `timePartitioning` and drops it otherwise; it also accepts partition and clustering columns that do not exist.
        """
        body = _with_filter_inside(await request.json())
        _check_layout(body)
        path = request.path_params
        created = await tables.insert_table(path["project_id"], path["dataset_id"], EditedRequest(body), self._context)
        return JSONResponse(_with_filter_outside(created))

    async def get(self, request: Request) -> Response:
        """Return the table with `requirePartitionFilter` where clients look for it."""
        path = request.path_params
        found = await asyncio.to_thread(
            tables.get_table, path["project_id"], path["dataset_id"], path["table_id"], self._context
        )
        return JSONResponse(_with_filter_outside(found))

    async def patch(self, request: Request) -> Response:
        """Change the given properties; new columns really appear.

        BigQuery: columns may be added (NULLABLE or REPEATED) and REQUIRED relaxed, anything else is refused; a stale
        `If-Match` answers 412. Stock changes the catalog only, so that a new column can neither be queried nor
        written, and ignores `If-Match`.
        """
        return await self._change(request, tables.patch_table)

    async def update(self, request: Request) -> Response:
        """As `patch`, for clients that send the whole table."""
        return await self._change(request, tables.update_table)

    async def _change(self, request: Request, stock: Any) -> Response:
        path = request.path_params
        key = (path["project_id"], path["dataset_id"], path["table_id"])
        body = await request.json()
        # The lock keeps appends out while catalog and storage disagree, and the etag true until it is replaced.
        # Nothing below waits for anything but the database, so holding it in the event loop is safe.
        with self._engine.lock:
            table = self._context.catalog.get_table(*key)
            if table is None:
                raise resource_not_found(ResourceRef("table", *key))
            expected = request.headers.get("if-match")
            if expected is not None and expected != table.etag:
                raise PreconditionFailedError("Precondition check failed: the table was changed meanwhile.")
            body = _with_filter_inside(body, table)
            self._add_columns(table, body)
            changed = await stock(*key, EditedRequest(body), self._context)
        self._context.events.publish(TableSchemaChanged(*key))
        return JSONResponse(_with_filter_outside(changed))

    def _add_columns(self, table: TableMeta, body: dict[str, Any]) -> None:
        fields = (body.get("schema") or {}).get("fields")
        if not fields or table.table_type != "TABLE":
            return
        wanted = tables._parse_schema_fields(fields)  # noqa: SLF001  the stock conversion, as stock's endpoint uses it
        added = _added_fields(table, wanted)
        target = quoted_table_ref(table.project_id, table.dataset_id, table.table_id)
        columns = bq_schema_to_duckdb_columns([tables._field_to_rest(field) for field in added])  # noqa: SLF001
        for name, kind in columns:
            self._engine.execute(f'ALTER TABLE {target} ADD COLUMN "{name}" {kind}')


def _with_filter_inside(body: dict[str, Any], existing: TableMeta | None = None) -> dict[str, Any]:
    """Move `requirePartitionFilter` to where stock stores it, inside `timePartitioning`."""
    wanted = body.get("requirePartitionFilter")
    partitioning = body.get("timePartitioning")
    if partitioning is None and existing is not None and existing.time_partitioning is not None:
        partitioning = tables._time_partitioning_to_rest(existing.time_partitioning)  # noqa: SLF001
    if wanted is None or partitioning is None:
        return body
    return body | {"timePartitioning": partitioning | {"requirePartitionFilter": bool(wanted)}}


def _with_filter_outside(table: dict[str, Any]) -> dict[str, Any]:
    """Show `requirePartitionFilter` at the top level, where BigQuery has it."""
    inside = table.get("timePartitioning", {})
    if inside.get("requirePartitionFilter"):
        return table | {"requirePartitionFilter": True}
    return table


def _check_layout(body: dict[str, Any]) -> None:
    """Refuse partitioning and clustering that BigQuery refuses."""
    fields = {field["name"]: field for field in (body.get("schema") or {}).get("fields", [])}
    partition = (body.get("timePartitioning") or {}).get("field")
    clustering = (body.get("clustering") or {}).get("fields", [])
    if partition is not None and partition not in fields:
        raise ValidationError(f"The field specified for partitioning cannot be found in the schema: {partition}")
    if body.get("requirePartitionFilter") and not (body.get("timePartitioning") or body.get("rangePartitioning")):
        raise ValidationError("require_partition_filter can only be set for partitioned tables")
    if len(clustering) > CLUSTERING_COLUMNS_MAX:
        raise ValidationError(f"Too many fields specified in clustering, limit {CLUSTERING_COLUMNS_MAX}")
    unknown = [name for name in clustering if name not in fields]
    if unknown:
        raise ValidationError(f"The field specified for clustering cannot be found in the schema: {unknown[0]}")


def _added_fields(table: TableMeta, wanted: tuple[TableFieldSchema, ...]) -> list[TableFieldSchema]:
    """The fields that `wanted` has and the table has not.

    Raises:
        ValidationError: `wanted` drops or retypes a field, or adds a REQUIRED one.
    """
    name = f"{table.project_id}:{table.dataset_id}.{table.table_id}"
    new = {field.name: field for field in wanted}
    old = {field.name: field for field in table.schema_.fields}
    for field in old.values():
        kept = new.get(field.name)
        if kept is None:
            raise ValidationError(
                f"Provided Schema does not match Table {name}. Field {field.name} is missing in new schema"
            )
        if _CANONICAL.get(kept.type, kept.type) != _CANONICAL.get(field.type, field.type):
            raise ValidationError(
                f"Provided Schema does not match Table {name}. Field {field.name} has changed type from "
                f"{field.type} to {kept.type}"
            )
        if kept.mode != field.mode and (field.mode, kept.mode) != ("REQUIRED", "NULLABLE"):
            raise ValidationError(
                f"Provided Schema does not match Table {name}. Field {field.name} has changed mode from "
                f"{field.mode} to {kept.mode}"
            )
    added = [field for field in wanted if field.name not in old]
    for field in added:
        if field.mode == "REQUIRED":
            raise ValidationError(
                f"Provided Schema does not match Table {name}. Cannot add required fields to an existing schema. "
                f"(field: {field.name})"
            )
    return added


_CANONICAL = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD"}
