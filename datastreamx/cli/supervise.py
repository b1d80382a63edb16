"""Behind `run` and `worker`: the process that watches, and the one that works."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import typer

from datastreamx.cli.options import FlowName
from datastreamx.cli.output import is_interactive, say
from datastreamx.clock import Clock, SystemClock
from datastreamx.config import load_config
from datastreamx.errors import HOPELESS
from datastreamx.log import configure_logging, get_logger
from datastreamx.place import place_of
from datastreamx.supervisor import Job, Limits, Supervisor
from datastreamx.supervisor.signals import Signals
from datastreamx.supervisor.worker import Worker

_log = get_logger("supervisor")


@dataclass(frozen=True)
class FlowOptions:
    """What `run` was told, and tells its worker.

    Attributes:
        flow: Which flow.
        path: Configuration file.
        ordinal: Number of this process; unset: what the environment says, else 0.
        accept_store: Go on with a recovery store that the broker knows to be old, foreign or gone.
        json_logs: Write logs as JSON lines.
    """

    flow: FlowName
    path: Path
    ordinal: int | None
    accept_store: bool
    json_logs: bool


def supervise(options: FlowOptions, limits: Limits) -> int:
    """Run the worker of a flow until somebody ends us, or until starting it again is of no use.

    Returns:
        The exit code.

    Raises:
        ConfigError: The configuration is not usable; no worker was started.
        CrashError: The flow runs here already, or the HTTP port cannot be used.
    """
    configure_logging(json=options.json_logs)
    config = load_config(options.path)
    place = place_of(config, options.ordinal)
    argv = [sys.executable, "-m", "datastreamx.cli", "worker", options.flow, "--config", str(options.path)]
    argv += ["--ordinal", str(place.ordinal)]
    verdict = Supervisor(
        Job(
            flow=options.flow,
            store=place.store_name(options.flow),
            argv=[*argv, "--json"] if options.json_logs else argv,
            argv_until_durable=["--accept-store"] if options.accept_store else [],
            recovery_directory=Path(config.recovery.directory),
            processes=place.count,
            listen=None if config.metrics.port is None else (config.metrics.host, config.metrics.port),
        ),
        limits,
        show=LiveLine() if is_interactive() and not options.json_logs else lambda _: None,
    ).run()
    if verdict.message is not None:
        say(f"error: {verdict.message}")
    if verdict.code == 0 and config.recovery.handover is not None and place.keeps_store:
        leaving = [sys.executable, "-m", "datastreamx.cli", "leave", options.flow, "--config", str(options.path)]
        leaving += ["--ordinal", str(place.ordinal)]
        leave_behind([*leaving, "--json"] if options.json_logs else leaving, limits, SystemClock())
    return verdict.code


def leave_behind(argv: Sequence[str], limits: Limits, clock: Clock) -> None:
    """Let a process leave a copy of the store that was in use, and wait for it; however that ends, it is only logged.

    In a process of its own, because whoever waits for a file system that hangs can neither be interrupted nor give up.

    Args:
        argv: Program and arguments.
        limits: How patient to be.
        clock: Monotonic time.
    """
    give_up_s = clock.monotonic_s() + limits.leaving_s
    with Signals() as signals:
        try:
            child = Worker(argv)
        except OSError as error:
            _log.error("handover.failed", problem=str(error))
            return
        problem = None
        while (code := child.poll()) is None and problem is None:
            left_s = give_up_s - clock.monotonic_s()
            if signals.wait(None, max(0.0, min(left_s, limits.tick_s))):
                problem = "asked to end at once"
            elif left_s <= 0:
                problem = f"not done after {limits.leaving_s:g} s"
        if problem is not None:
            child.send(signal.SIGKILL)
            # Not for long: a file system that hangs keeps even a killed process.
            signals.wait(None, limits.tick_s)
            child.poll()
        elif code != 0:
            problem = f"exit code {code}; the line before says why"
        child.close()
    if problem is not None:
        _log.error("handover.failed", problem=problem)


def leave_store(options: FlowOptions) -> None:
    """Leave a copy of the store of a flow that was stopped; raises what `flows.recovery.handover.leave` does."""
    from datetime import UTC, datetime  # noqa: PLC0415  only this command needs it

    from flows.recovery.handover import leave  # noqa: PLC0415  likewise

    configure_logging(json=options.json_logs)
    config = load_config(options.path)
    copy = leave(config, options.flow, place_of(config, options.ordinal), datetime.now(UTC))
    _log.info("handover.left", store=copy.record.store, keys=copy.record.keys, folder=str(copy.folder))


def work(options: FlowOptions) -> None:
    """Run a flow in this process, and tell the supervisor, if there is one.

    Raises:
        DatastreamXError: What stopped the flow.
    """
    from datastreamx.interpreter import load_without_garbage_collection  # noqa: PLC0415  the supervisor does without

    load_without_garbage_collection()
    from datastreamx.pulse import Pulse  # noqa: PLC0415  likewise
    from flows.run import run_flow  # noqa: PLC0415  likewise

    configure_logging(json=options.json_logs)
    pulse = Pulse.from_environment()
    try:
        config = load_config(options.path)
        place = place_of(config, options.ordinal)
        run_flow(options.flow, config, place, pulse, accept_store=options.accept_store)
    except HOPELESS:
        pulse.give_up()
        raise


def parse_limits(texts: list[str]) -> Limits:
    """Limits from `name=value` texts.

    Raises:
        typer.BadParameter: One is none.
    """
    given = {name: value for name, _, value in (text.partition("=") for text in texts)}
    try:
        return msgspec.convert(given, Limits, strict=False)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(str(error), param_hint="--limit") from None


class LiveLine:
    """One line at the bottom of the terminal that the next message overwrites."""

    def __init__(self) -> None:
        self._is_shown = False

    def __call__(self, line: str | None) -> None:
        """Show `line`, or nothing any more."""
        if line is None and not self._is_shown:
            return
        self._is_shown = line is not None
        width = shutil.get_terminal_size().columns - 1
        # The cursor goes back to the start: the worker writes to the same terminal, and knows of no line.
        sys.stderr.write(f"\r\x1b[K{(line or '')[:width]}\r")
        sys.stderr.flush()
