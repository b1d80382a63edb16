"""The command `rescale`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from datastreamx.cli.flows import FlowsOption
from datastreamx.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from datastreamx.cli.output import emit
from datastreamx.cli.progress import progress
from datastreamx.cli.terminal import show


def rescale(  # noqa: PLR0913 - one parameter per option
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    cells: Annotated[int, typer.Option(min=1, help="Cells from now on; with --mode cluster: its processes.")],
    mode: Annotated[Literal["cells", "cluster"], typer.Option(help="What scaling.mode will be.")] = "cells",
    flow: FlowsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read, check and show; change nothing.")] = False,
    handed_over: Annotated[
        bool,
        typer.Option(
            "--handed-over",
            help="Share out what stopped cells have left in recovery.handover, and leave the new stores there.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Share the recovery stores of stopped flows out to another number of cells, or between cells and a cluster.

    All stores of a flow have to be on this machine. The old ones are set aside, none is deleted. When it is
    interrupted, the same command takes it back or finishes it; until then no flow starts. Afterwards write the new
    number into the configuration, and start every cell.

    With `--handed-over` no store has to be here: those that stopped cells have left in `recovery.handover` are shared
    out, if all of them are there and are the newest. `datastreamx prepare` takes the new ones over, each at its place.

    Examples:
    - `datastreamx rescale --cells 4 --dry-run`

    - `datastreamx rescale --cells 4 --json`

    - `datastreamx rescale --cells 6 --handed-over`
    """
    from datetime import UTC, datetime  # noqa: PLC0415  only what --help needs is loaded for it

    from datastreamx.cli.ending import ends_on_sigterm  # noqa: PLC0415  likewise
    from datastreamx.cli.rescale.render import render  # noqa: PLC0415  likewise
    from datastreamx.config import load_config  # noqa: PLC0415  likewise
    from datastreamx.log import configure_logging, get_logger  # noqa: PLC0415  likewise
    from flows.recovery.handed_rescale import rescale_handed_over  # noqa: PLC0415  likewise
    from flows.recovery.rescale import Rescale  # noqa: PLC0415  likewise
    from flows.recovery.rescale import rescale as do  # noqa: PLC0415  likewise

    ends_on_sigterm()
    wanted = Rescale(load_config(config), mode, cells, tuple(dict.fromkeys(flow or ())), dry_run=dry_run)
    now = datetime.now(UTC)
    if handed_over:
        # This runs where nobody watches, and a log is all that is left of it.
        configure_logging(json=as_json)
        log = get_logger("rescale")
        report = rescale_handed_over(wanted, now, lambda step: log.info("rescale.step", step=step))
    else:
        with progress("reading the recovery stores") as tell:
            report = do(wanted, now, tell)
    if as_json:
        emit(report)
    else:
        show(*render(report))
