"""Behind `run` and `worker`: the process that watches, and the one that works."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import typer

from datastreamx.cli.options import FlowName
from datastreamx.cli.output import is_interactive, say
from datastreamx.config import load_config
from datastreamx.errors import HOPELESS
from datastreamx.log import configure_logging
from datastreamx.place import place_of
from datastreamx.supervisor import Job, Limits, Supervisor


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
            listen=None if config.metrics.port is None else (config.metrics.host, config.metrics.port),
        ),
        limits,
        show=LiveLine() if is_interactive() and not options.json_logs else lambda _: None,
    ).run()
    if verdict.message is not None:
        say(f"error: {verdict.message}")
    return verdict.code


def work(options: FlowOptions) -> None:
    """Run a flow in this process, and tell the supervisor, if there is one.

    Raises:
        DatastreamXError: What stopped the flow.
    """
    from datastreamx.pulse import Pulse  # noqa: PLC0415  the supervisor does without all this
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
