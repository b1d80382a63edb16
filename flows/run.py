"""Runs a flow in this process: recovery store, metrics, clean stop.

`python -m bytewax.run` would do for a trial; it loses the last snapshot on a signal and cannot take epochs below a
second.
"""

from __future__ import annotations

import os
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
from bytewax.recovery import RecoveryConfig

from datastreamx.clock import SystemClock
from datastreamx.config import Config
from datastreamx.errors import CrashError
from datastreamx.interpreter import share_the_interpreter, spare_garbage_collection
from datastreamx.log import get_logger
from datastreamx.metrics import serve_metrics
from datastreamx.place import Place
from datastreamx.pulse import Pulse
from flows.panics import ENDS, causes_of, is_lost_peer, refusal, sqlite_failure
from flows.ports import Process
from flows.recovery.opening import opened_store

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

    process.pulse.enter("starting", "checking the tables")
    check_tables(rest_client(process.config.bigquery), process.config.bigquery, on_wait=process.pulse.beat)
    process.pulse.enter("starting", "connecting")
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


def run_flow(name: FlowName, config: Config, place: Place, pulse: Pulse, *, accept_store: bool = False) -> None:
    """Run until SIGTERM or SIGINT, which end the flow with a last snapshot: the next start repeats nothing.

    Call it in the main thread.

    Args:
        name: Which flow.
        config: Whole configuration.
        place: Share of the work that this process has.
        pulse: Tells the supervisor, if there is one, how far it is.
        accept_store: See `Process`.

    Raises:
        DatastreamXError: What stopped the flow, without Bytewax's wrapping.
    """
    keep_panics_short()
    stop = threading.Event()
    stop_on_signals(stop)
    with ExitStack() as resources:
        pulse.enter("starting", "checking the store")
        recovery = resources.enter_context(opened_store(name, config, place, SystemClock()))
        pulse.enter("starting", "connecting")
        flow = _OPEN[name](Process(config, place, pulse, stop, resources, accept_store))
        if config.metrics.port is not None:
            # The supervisor passes them on, and so is the only one who has to agree with others about a port.
            server, _ = serve_metrics("127.0.0.1", 0)
            resources.callback(server.shutdown)
            pulse.serves_metrics(f"http://127.0.0.1:{server.server_port}/metrics")
        spare_garbage_collection(is_fresh=True)
        share_the_interpreter()
        _log.info("flow.starting", flow=name, store=str(recovery.db_dir))
        pulse.enter("restoring", "loading state")
        execute(flow, recovery, config.recovery.epoch_ms, place)
    _log.info("flow.stopped", flow=name)


def execute(flow: Dataflow, recovery: RecoveryConfig, epoch_ms: int, place: Place | None = None) -> None:
    """Run `flow` in this thread until its sources end it.

    Args:
        flow: What to run.
        recovery: Store to resume from and to write snapshots to.
        epoch_ms: From one snapshot to the next.
        place: Of this process in a cluster; without one the flow runs in this process alone.

    Raises:
        DatastreamXError: What stopped the flow, without Bytewax's wrapping.
    """
    is_member = place is not None and place.mode == "cluster"
    cluster = {"process_id": place.ordinal, "addresses": [*place.addresses]} if place and is_member else {}
    try:
        cli_main(flow, epoch_interval=timedelta(milliseconds=epoch_ms), recovery_config=recovery, **cluster)
    except ENDS:
        raise
    except BaseException as error:
        raise _cause(error, Path(recovery.db_dir), place) from error


def stop_on_signals(stop: threading.Event) -> None:
    """Set `stop` at SIGTERM and SIGINT."""

    def on_signal(number: int, _: FrameType | None) -> None:
        # Ctrl-C reaches a worker twice: from the terminal, and from its supervisor.
        if not stop.is_set():
            _log.info("flow.stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def keep_panics_short() -> None:
    """Whatever stops a flow passes through a panic in Rust, whose backtrace of 90 lines would bury our one."""
    if os.environ.get("RUST_BACKTRACE") != "full":
        os.environ["RUST_BACKTRACE"] = "0"


def _cause(error: BaseException, store: Path, place: Place | None) -> BaseException:
    """An error that says what happened. What nobody foresaw is logged with all that is known of it."""
    found = refusal(error)
    if found is not None:
        return found
    failure = sqlite_failure(error)
    if failure is not None:
        return CrashError(
            f"recovery store {store} cannot be used: {failure}. If the disk is full or read-only, make room and start "
            "again: the flow goes on at its last snapshot. If the files are damaged, the next start tells"
        )
    if place is not None and is_lost_peer(error):
        return CrashError(
            f"another process of the cluster {', '.join(place.addresses)} has ended or cannot be reached, and they run "
            "or start again together: the log of the one that ended first says why"
        )
    _log.error("flow.failed", exc_info=error)
    innermost = causes_of(error)[-1]
    return CrashError(
        f"the flow stopped by a fault of the program: {type(innermost).__name__}: {innermost}. Report it, with the log "
        "event flow.failed"
    )
