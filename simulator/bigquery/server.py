"""Composition of the local BigQuery: `bqemulator`'s parts with ours, REST and gRPC each in threads of their own.

Stock runs both in one event loop, where a query, which is plain blocking code, holds up every append.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

import grpc
import uvicorn
from bqemulator.api.app import create_app
from bqemulator.api.dependencies import AppContext
from bqemulator.catalog.duckdb_repository import DuckDBCatalogRepository
from bqemulator.catalog.memory_repository import MemoryCatalogRepository
from bqemulator.config import PersistenceMode, Settings
from bqemulator.domain.clock import SystemClock
from bqemulator.domain.events import EventBus
from bqemulator.grpc_api.read_servicer import BigQueryReadHandler
from bqemulator.jobs.upload_session_manager import UploadSessionManager
from bqemulator.observability.metrics import MetricsRegistry
from bqemulator.row_access.policy import RowAccessPolicyManager
from bqemulator.streaming.write_stream import WriteStreamManager
from bqemulator.udf.runtime import UDFRegistry
from bqemulator.versioning.materialized_views import clear_subscriptions_for_context, hydrate_subscriptions

from datastreamx.errors import CrashError
from simulator.bigquery import compat, sql
from simulator.bigquery.control import ControlRoutes, SpoiledRest
from simulator.bigquery.engine import ChangeLog, LocalEngine
from simulator.bigquery.faults import FaultInjector
from simulator.bigquery.job_routes import JobRoutes
from simulator.bigquery.table_routes import TableRoutes
from simulator.bigquery.write_api import REQUEST_BYTES_MAX, LocalWriteHandler

if TYPE_CHECKING:
    from types import TracebackType

HOST = "127.0.0.1"

# An open AppendRows connection keeps a thread for its whole life, so this bounds the number of writers.
GRPC_THREADS = 256

# Above our own limit, so that a request that is too large gets BigQuery's answer and not the transport's.
TRANSPORT_BYTES_MAX = 4 * REQUEST_BYTES_MAX

REST_STOP_WITHIN_S = 5.0


class LocalServer:
    """The server inside this process. `simulator.bigquery.LocalBigQuery` runs it in a process of its own.

    Args:
        data_dir: Where tables are kept over restarts; `None` keeps them in memory. Write streams are always lost.
        rest_port: Port on 127.0.0.1; 0 picks a free one.
        grpc_port: Likewise.
    """

    def __init__(self, data_dir: Path | None = None, rest_port: int = 0, grpc_port: int = 0) -> None:
        compat.check()
        sql.install()
        self.faults = FaultInjector()
        self.rest_port = rest_port
        self.grpc_port = grpc_port
        self._data_dir = data_dir
        self._cleanup = contextlib.ExitStack()

    @property
    def rest_url(self) -> str:
        """For `client_options={"api_endpoint": ...}` of the BigQuery client."""
        return f"http://{HOST}:{self.rest_port}"

    @property
    def grpc_target(self) -> str:
        """For `grpc.insecure_channel` below the Storage clients."""
        return f"{HOST}:{self.grpc_port}"

    def start(self) -> None:
        """Serve; returns when both ports accept connections.

        Raises:
            CrashError: A port is taken, or the data directory belongs to a running server.
        """
        with contextlib.ExitStack() as undo:
            staging_dir = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="local-bigquery-")))
            settings = _settings(self._data_dir, staging_dir)
            engine = LocalEngine(settings)
            try:
                asyncio.run(engine.start())
            except Exception as error:
                raise CrashError(f"cannot open the local BigQuery's data in {self._data_dir}: {error}") from error
            undo.callback(lambda: asyncio.run(engine.stop()))
            context = _context(settings, engine)
            undo.callback(clear_subscriptions_for_context, context)
            job_routes = JobRoutes(context)
            job_routes.install_upload_ids()
            undo.callback(job_routes.uninstall_upload_ids)
            self._start_grpc(context, engine, undo)
            self._start_rest(context, engine, job_routes, undo)
            self._cleanup = undo.pop_all()

    def stop(self) -> None:
        """Stop serving and close the data; safe to call twice."""
        self._cleanup.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _start_grpc(self, context: AppContext, engine: LocalEngine, undo: contextlib.ExitStack) -> None:
        server = grpc.server(
            ThreadPoolExecutor(GRPC_THREADS, thread_name_prefix="grpc"),
            handlers=[LocalWriteHandler(context, engine, self.faults), BigQueryReadHandler(context)],
            options=[
                ("grpc.max_receive_message_length", TRANSPORT_BYTES_MAX),
                ("grpc.max_send_message_length", TRANSPORT_BYTES_MAX),
                # Otherwise two servers could share a port and split the calls between them.
                ("grpc.so_reuseport", 0),
            ],
        )
        try:
            self.grpc_port = server.add_insecure_port(f"{HOST}:{self.grpc_port}")
        except RuntimeError as error:
            raise CrashError(f"cannot serve gRPC on port {self.grpc_port}: {error}; choose another or 0") from error
        server.start()
        undo.callback(lambda: server.stop(grace=0).wait())

    def _start_rest(
        self, context: AppContext, engine: LocalEngine, job_routes: JobRoutes, undo: contextlib.ExitStack
    ) -> None:
        app = create_app(context)
        own = [
            *TableRoutes(context, engine).routes(),
            *job_routes.routes(),
            *ControlRoutes(context, self.faults).routes(),
        ]
        # The first route that matches wins.
        app.router.routes[:0] = own
        # asyncio turns Nagle's algorithm off only for sockets whose protocol is spelled out; with it every answer waits
        # 40 ms for the client's delayed acknowledgement.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        undo.callback(listener.close)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, self.rest_port))
        except OSError as error:
            raise CrashError(f"cannot serve REST on port {self.rest_port}: {error}; choose another or 0") from error
        listener.listen(128)
        self.rest_port = listener.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(
                SpoiledRest(app, self.faults),
                log_config=None,
                access_log=False,
                lifespan="off",
                loop="asyncio",
                timeout_graceful_shutdown=1,
            )
        )
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="local-bigquery-rest", daemon=True
        )

        def stop() -> None:
            server.should_exit = True
            thread.join(REST_STOP_WITHIN_S)

        thread.start()
        undo.callback(stop)


def _settings(data_dir: Path | None, staging_dir: Path) -> Settings:
    return Settings(
        persistence_mode=PersistenceMode.EPHEMERAL if data_dir is None else PersistenceMode.PERSISTENT,
        data_dir=data_dir,
        upload_staging_dir=staging_dir,
        # Results must be what is in the table now.
        query_cache_ttl_seconds=0,
        # Avro would be downloaded.
        enable_format_extensions=False,
    )


def _context(settings: Settings, engine: LocalEngine) -> AppContext:
    clock = SystemClock()
    events = EventBus()
    catalog: DuckDBCatalogRepository | MemoryCatalogRepository
    if settings.persistence_mode is PersistenceMode.EPHEMERAL:
        catalog = MemoryCatalogRepository(engine)
    else:
        catalog = DuckDBCatalogRepository(engine)
        catalog.ensure_ready()
    udf_registry = UDFRegistry(settings)
    udf_registry.hydrate(catalog, engine)
    context = AppContext(
        settings=settings,
        clock=clock,
        engine=engine,
        catalog=catalog,
        metrics=MetricsRegistry(),
        events=events,
        udf_registry=udf_registry,
        snapshots=ChangeLog(engine=engine, catalog=catalog, clock=clock, events=events, retention_days=1),
        row_access=RowAccessPolicyManager(catalog=catalog, clock=clock),
        write_streams=WriteStreamManager(),
        upload_sessions=UploadSessionManager(
            staging_dir=settings.upload_staging_dir,
            max_bytes=settings.upload_max_bytes,
            ttl_seconds=settings.upload_session_ttl_seconds,
            clock=clock,
        ),
    )
    hydrate_subscriptions(context)
    return context
