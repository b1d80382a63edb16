"""Runs a flow in this process: recovery store, metrics, clean stop.

`python -m bytewax.run` would do for a trial; it loses the last snapshot on a signal and cannot take epochs below a
second.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Literal

from bytewax._bytewax import cli_main
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir

from datastreamx.config import Config
from datastreamx.errors import CrashError, DatastreamXError, StateMismatchError
from datastreamx.interpreter import spare_garbage_collection
from datastreamx.log import get_logger
from datastreamx.metrics import serve_metrics
from datastreamx.place import Place
from datastreamx.pulse import Pulse
from flows.ports import Process

FlowName = Literal["ads", "warehouse", "notices"]

_log = get_logger("run")


def _ads(process: Process) -> Dataflow:
    from flows.ads import build  # noqa: PLC0415 - each flow loads only what it needs, and is back the sooner
    from flows.ports.ads import live_ads_ports  # noqa: PLC0415

    return build(process.config, live_ads_ports(process))


def _warehouse(process: Process) -> Dataflow:
    from flows.ports.warehouse import live_warehouse_ports  # noqa: PLC0415 - see above
    from flows.warehouse import build  # noqa: PLC0415
    from sinks.bigquery.client import rest_client  # noqa: PLC0415
    from sinks.bigquery.schema import check_tables  # noqa: PLC0415

    check_tables(rest_client(process.config.bigquery), process.config.bigquery)
    return build(process.config, live_warehouse_ports(process))


def _notices(process: Process) -> Dataflow:
    from flows.notices import build  # noqa: PLC0415 - see above
    from flows.ports.notices import live_notices_ports  # noqa: PLC0415

    return build(process.config, live_notices_ports(process))


_OPEN: dict[FlowName, Callable[[Process], Dataflow]] = {
    "ads": _ads,
    "warehouse": _warehouse,
    "notices": _notices,
}
"""How to check and build each flow."""


def run_flow(name: FlowName, config: Config, place: Place, pulse: Pulse) -> None:
    """Run until SIGTERM or SIGINT, which end the flow with a last snapshot: the next start repeats nothing.

    Call it in the main thread.

    Args:
        name: Which flow.
        config: Whole configuration.
        place: Share of the work that this process has.
        pulse: Tells the supervisor, if there is one, how far it is.

    Raises:
        DatastreamXError: What stopped the flow, without Bytewax's wrapping.
    """
    _keep_panics_short()
    stop = threading.Event()
    # First of all: the kernel drops a SIGTERM to a container's first process that has no handler for it yet.
    _stop_on_signals(stop)
    recovery = open_store(Path(config.recovery.directory) / place.store_name(name), config.recovery.stores)
    with ExitStack() as resources:
        flow = _OPEN[name](Process(config, place, pulse, stop, resources))
        if config.metrics.port is not None:
            server, _ = serve_metrics(config.metrics.host, config.metrics.port)
            resources.callback(server.shutdown)
            address = f"http://{config.metrics.host}:{server.server_port}/metrics"
            pulse.serves_metrics(address)
            _log.info("metrics", address=address)
        spare_garbage_collection()
        _log.info("flow.starting", flow=name, store=str(recovery.db_dir))
        pulse.enter("restoring", "loading state")
        cluster = {"process_id": place.ordinal, "addresses": [*place.addresses]} if place.mode == "cluster" else {}
        try:
            cli_main(
                flow,
                epoch_interval=timedelta(milliseconds=config.recovery.epoch_ms),
                recovery_config=recovery,
                **cluster,
            )
        except _ENDS:
            raise
        except BaseException as error:
            raise _cause(error, Path(recovery.db_dir)) from error
    _log.info("flow.stopped", flow=name)


def open_store(directory: Path, stores: int) -> RecoveryConfig:
    """Recovery store in `directory`, made if there is none.

    Raises:
        StateMismatchError: It was made with another number of files.
        CrashError: The directory cannot be used.
    """
    try:
        found = len(list(directory.glob("part-*.sqlite3")))
        if not found:
            _make_store(directory, stores)
    except _ENDS:
        raise
    except BaseException as error:
        raise CrashError(
            f"recovery store {directory} cannot be made: {_sqlite_error(error) or error}; is the disk full or "
            "read-only? Make room, or let recovery.directory name another folder, and start again"
        ) from error
    if found and found != stores:
        raise StateMismatchError(
            f"recovery store {directory} has {found} files, recovery.stores says {stores}: set it back to {found}, "
            'or read what an empty store means under "Expired offset" in docs/runbook.md'
        )
    return RecoveryConfig(str(directory))


def _make_store(directory: Path, stores: int) -> None:
    """Make a store beside its place and move it there as a whole: half a store would be taken for another one."""
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        init_db_dir(unfinished, stores)
        unfinished.replace(directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _stop_on_signals(stop: threading.Event) -> None:
    def on_signal(number: int, _: FrameType | None) -> None:
        _log.info("flow.stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


# A panic of Bytewax's Rust half arrives as a direct child of BaseException; these are no faults.
_ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)

_SQLITE_FAILURE = re.compile(r'SqliteFailure\(Error \{ code: (\w+).*?Some\("([^"]*)"\)')


def _keep_panics_short() -> None:
    """Whatever stops a flow passes through a panic in Rust, whose backtrace of 90 lines would bury our one."""
    if os.environ.get("RUST_BACKTRACE") != "full":
        os.environ["RUST_BACKTRACE"] = "0"


def _cause(error: BaseException, store: Path) -> BaseException:
    """Bytewax wraps whatever a callback raises, several times; the innermost error of ours says what happened."""
    causes = _chain(error)
    found = next((cause for cause in reversed(causes) if isinstance(cause, DatastreamXError)), None)
    if found is not None:
        return found
    failure = _sqlite_error(error)
    if failure is not None:
        return CrashError(
            f"recovery store {store} cannot be used: {failure}. If the disk is full or read-only, make room and start "
            'again: the flow goes on at its last snapshot. If the files are damaged, see "Expired offset" in '
            "docs/runbook.md"
        )
    return CrashError(f"the flow stopped: {type(causes[-1]).__name__}: {causes[-1]}")


def _sqlite_error(error: BaseException) -> str | None:
    """What SQLite said, out of the text of a panic."""
    match = next((match for cause in _chain(error) if (match := _SQLITE_FAILURE.search(str(cause)))), None)
    return f"{match[2]} ({match[1]})" if match else None


def _chain(error: BaseException) -> list[BaseException]:
    causes = [error]
    while (inner := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(inner)
    return causes
