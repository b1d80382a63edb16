"""All commands. Each imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datastreamx.cli.aggregator.command import aggregator
from datastreamx.cli.backup.command import backup, restore
from datastreamx.cli.bench.command import bench
from datastreamx.cli.doctor.command import doctor
from datastreamx.cli.explain.command import explain
from datastreamx.cli.forget.command import forget
from datastreamx.cli.options import (
    DEFAULT_CONFIG,
    AcceptStoreOption,
    ConfigOption,
    FlowArgument,
    JsonLogsOption,
    OrdinalOption,
)
from datastreamx.cli.output import Exit, fail
from datastreamx.cli.prepare.command import prepare
from datastreamx.cli.query.command import query
from datastreamx.cli.replay.command import replay
from datastreamx.cli.rescale.command import rescale
from datastreamx.cli.resources.command import apply, plan
from datastreamx.cli.simulate import simulate
from datastreamx.cli.status.command import status
from datastreamx.cli.validate import validate
from datastreamx.cli.volumes.command import snapshot_volumes
from datastreamx.errors import CrashError, DatastreamXError

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage (also an option that does not fit the configuration), 3 wrong "
    "configuration, 4 Kafka, BigQuery, an aggregator or a process does not answer, 5 a promise was broken (demo), 130 "
    "Ctrl-C. `run` ends with the code of its worker, and with 128 + N if signal N ended that. Results go to standard "
    "output, messages to standard error."
)

app = typer.Typer(
    name="datastreamx",
    help="Set-top-box events in, ads out, rows in BigQuery. Start with `datastreamx demo`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it with the option's value
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - see the module docstring

        typer.echo(f"datastreamx {version('datastreamx')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel="Try")
def demo(  # noqa: PLR0913 - one parameter per option
    *,
    duration: Annotated[
        str | None, typer.Option("--for", help="How long, e.g. 60s or 5m; without it until Ctrl-C.", metavar="TIME")
    ] = None,
    boxes: Annotated[int, typer.Option(min=1, max=300_000, help="Size of the fleet.")] = 3_000,
    seed: Annotated[int, typer.Option(help="Repeats viewers, aggregators, faults and kills.")] = 1,
    speed_up: Annotated[float, typer.Option(min=0.1, help="Viewers act this much faster than real ones.")] = 6.0,
    faults: Annotated[
        str, typer.Option(help="Faults that the boxes write into their stream: none, some or many.")
    ] = "none",
    kill_worker: Annotated[
        bool,
        typer.Option(
            "--kill-worker", help="SIGKILL first the ads, then the warehouse and notices workers, on the way."
        ),
    ] = False,
    directory: Annotated[Path | None, typer.Option(help="Keep configuration, state and logs here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Run everything on this machine: boxes, aggregators, broker, BigQuery and all flows. No account needed.

    Ends with an audit: events, pushes, notices and rows are counted at independent ends. Exit code 5: a broken promise.

    Example: `datastreamx demo --for 60s --json --kill-worker`
    """
    from datastreamx.cli.demo.run import DemoOptions, run_demo  # noqa: PLC0415 - see the module docstring
    from datastreamx.cli.output import seconds  # noqa: PLC0415

    options = DemoOptions(
        duration_s=None if duration is None else seconds(duration),
        boxes=boxes,
        seed=seed,
        speed_up=speed_up,
        faults=faults,
        kill_worker=kill_worker,
        directory=directory,
        json=as_json,
    )
    if run_demo(options).violations:
        raise typer.Exit(Exit.INVARIANT)


@app.command(rich_help_panel="Operate")
def run(  # noqa: PLR0913 - one parameter per option
    flow: FlowArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    ordinal: OrdinalOption = None,
    accept_store: AcceptStoreOption = False,
    json_logs: JsonLogsOption = False,
    limit: Annotated[list[str] | None, typer.Option(hidden=True, metavar="NAME=SECONDS")] = None,
) -> None:
    """Run a flow until SIGTERM or Ctrl-C, which end it with a last snapshot.

    The work is done by a process of its own. When it crashes or hangs it is started again, up to 5 times in 5 minutes;
    then, or when only a change by you can help, this command ends with its exit code.

    Example: `datastreamx run ads --config datastreamx.toml`
    """
    from datastreamx.cli.supervise import FlowOptions, parse_limits, supervise  # noqa: PLC0415 - see the module docstring

    options = FlowOptions(flow, config, ordinal, accept_store=accept_store, json_logs=json_logs)
    raise typer.Exit(supervise(options, parse_limits(limit or [])))


@app.command(hidden=True)
def worker(
    flow: FlowArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    ordinal: OrdinalOption = None,
    accept_store: AcceptStoreOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Run a flow in this process, unsupervised: what `run` starts.

    Example: `datastreamx worker ads --config datastreamx.toml`
    """
    from datastreamx.cli.supervise import FlowOptions, work  # noqa: PLC0415 - see the module docstring

    work(FlowOptions(flow, config, ordinal, accept_store=accept_store, json_logs=json_logs))


@app.command(hidden=True)
def leave(
    flow: FlowArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    ordinal: OrdinalOption = None,
    json_logs: JsonLogsOption = False,
) -> None:
    """Leave a copy of the store of a flow that was stopped in `recovery.handover`: what `run` does when it ends.

    Example: `datastreamx leave ads --config datastreamx.toml`
    """
    from datastreamx.cli.supervise import FlowOptions, leave_store  # noqa: PLC0415 - see the module docstring

    leave_store(FlowOptions(flow, config, ordinal, accept_store=False, json_logs=json_logs))


app.command(rich_help_panel="Try")(simulate)
app.command(rich_help_panel="Try")(explain)
app.command(rich_help_panel="Try")(query)
app.command(rich_help_panel="Try")(bench)
app.command(rich_help_panel="Prepare")(validate)
app.command(rich_help_panel="Prepare")(plan)
app.command(rich_help_panel="Prepare")(apply)
app.add_typer(aggregator, name="aggregator", rich_help_panel="Prepare")
app.command(rich_help_panel="Operate")(status)
app.command(rich_help_panel="Operate")(doctor)
app.command(rich_help_panel="Operate")(prepare)
app.command(rich_help_panel="Operate")(rescale)
app.command(rich_help_panel="Operate")(backup)
app.command(rich_help_panel="Operate")(restore)
app.command(rich_help_panel="Operate")(snapshot_volumes)
app.command(rich_help_panel="Operate")(replay)
app.command(rich_help_panel="Operate")(forget)


def main() -> None:
    """Run the command line; every error of ours ends in one clear message and its exit code."""
    try:
        app(prog_name="datastreamx")
    except DatastreamXError as error:
        fail(error)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "simulator":
            raise
        # The container image is one.
        fail(CrashError("this command needs the simulators, which this installation leaves out: run it in a clone"))
