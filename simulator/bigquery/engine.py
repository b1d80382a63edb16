"""DuckDB behind the local BigQuery: one connection, one lock, no network."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
from bqemulator.domain.events import TableDataChanged
from bqemulator.storage.engine import DuckDBEngine, _annotate_with_duckdb_types
from bqemulator.versioning.snapshots import SnapshotManager

if TYPE_CHECKING:
    from bqemulator.catalog.models import SnapshotMeta
    from bqemulator.config import Settings

# DuckDB's defaults, all cores and 80 % of the memory, would starve the processes that this server is there to test.
THREADS = 2
MEMORY_LIMIT = "2GB"


class LocalEngine(DuckDBEngine):
    """`DuckDBEngine` that may be used from several threads, and starts without a network."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.lock = threading.RLock()

    @property
    def connection(self) -> Any:
        """The connection, every method of it under the lock.

        BigQuery runs queries and appends side by side. Stock hands out the bare connection to all threads: a query
        that overlaps an append deadlocks or fails.
        """
        return _LockedConnection(super().connection, self.lock)

    def execute(self, sql: str, parameters: list[Any] | None = None) -> Any:
        """Run a statement and fetch its whole result under the lock.

        Stock returns the shared connection as the cursor, so a second statement between `execute` and `fetch` answers
        with the other statement's rows.
        """
        with self.lock:
            cursor = super().connection.execute(sql, parameters)
            description = cursor.description
            rows = cursor.fetchall() if description else []
        return _Result(self, sql, parameters, description, rows)

    def fetch_arrow(self, sql: str, parameters: list[Any] | None = None) -> pa.Table:
        """Run a query and fetch its whole result as Arrow under the lock, for the same reason as `execute`."""
        with self.lock:
            # Not `execute`, whose Arrow output makes an extra copy of all rows, and warns about it.
            relation: duckdb.DuckDBPyRelation | None = super().connection.sql(sql, params=parameters)
            if relation is None:
                # DuckDB before 2.0, for a statement without rows.
                return pa.table({})
            return _annotate_with_duckdb_types(relation.to_arrow_table(), relation.description)

    def _apply_session_pragmas(self) -> None:
        super()._apply_session_pragmas()
        connection = super().connection
        connection.execute(f"SET threads = {THREADS}")
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")

    def _load_spatial(self) -> None:
        """Do without the `spatial` extension when it is not installed.

        Only GEOGRAPHY functions need it. Stock downloads it and refuses to start when that fails, so it never starts
        offline.
        """
        with contextlib.suppress(duckdb.Error):
            super().connection.execute("LOAD spatial")


class ChangeLog(SnapshotManager):
    """`SnapshotManager` that announces changes and keeps no snapshot of its own accord.

    BigQuery keeps history by copying nothing. Stock copies the whole table after every append: at 900,000 rows one
    append cost more than the rows before it together, and memory grew by gigabytes. `FOR SYSTEM_TIME AS OF` therefore
    reads the present.
    """

    def record_change(self, project_id: str, dataset_id: str, table_id: str) -> SnapshotMeta | None:
        """Tell the query cache and the materialized views that the table changed."""
        self._events.publish(TableDataChanged(project_id, dataset_id, table_id))
        return None


class _LockedConnection:
    def __init__(self, connection: duckdb.DuckDBPyConnection, lock: threading.RLock) -> None:
        self._connection = connection
        self._lock = lock

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._connection, name)
        if not callable(attribute):
            return attribute

        def locked(*args: object, **kwargs: object) -> Any:
            with self._lock:
                return attribute(*args, **kwargs)

        return locked


class _Result:
    """A fetched result with the part of a DuckDB cursor's interface that `bqemulator` uses."""

    def __init__(
        self,
        engine: LocalEngine,
        sql: str,
        parameters: list[Any] | None,
        description: list[tuple[Any, ...]] | None,
        rows: list[tuple[Any, ...]],
    ) -> None:
        self.description = description
        self._engine = engine
        self._statement = (sql, parameters)
        self._rows = rows

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows, []
        return rows

    def to_arrow_table(self) -> pa.Table:
        """Run the statement once more: rows lost their Arrow types, and the two callers pass queries only."""
        return self._engine.fetch_arrow(*self._statement)
