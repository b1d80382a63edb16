"""The command `status`."""

from __future__ import annotations

from typing import Annotated

import typer

from datastreamx.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from datastreamx.cli.output import Exit, emit
from datastreamx.cli.terminal import next_step, show, working


def status(
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    cells: Annotated[
        bool,
        typer.Option("--cells", help="With metrics.peers: list every process and partition, not only the unwell."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what each flow does, lag per partition, freshness per table, decisions per minute, dead letters by reason.

    With `metrics.peers` every process of the deployment is asked over HTTP. Without it processes, where they serve
    their metrics, and their stores are those of this machine; so is, always, a rescale or a restore that was
    interrupted. Offsets are those that the flows committed with their last snapshot, so a lag of an epoch is normal.
    Exit code 4: Kafka, BigQuery or a process that was asked does not answer; the rest is shown all the same.

    Examples:
    - `datastreamx status --config datastreamx.toml`

    - `datastreamx status --json | jq '.flows[].cells[] | select(.trouble) | {name, trouble}'`
    """
    from datastreamx.cli.status import report  # noqa: PLC0415  heavy, not needed for --help
    from datastreamx.cli.status.probe import probe  # noqa: PLC0415  likewise
    from datastreamx.cli.status.render import render  # noqa: PLC0415  likewise
    from datastreamx.clock import SystemClock  # noqa: PLC0415  likewise
    from datastreamx.config import load_config  # noqa: PLC0415  likewise

    loaded = load_config(config)
    with working("asking Kafka, BigQuery and the processes ..."):
        found = probe(loaded, SystemClock())
    if as_json:
        emit(report.as_json(found))
    else:
        show(*render(found, all_cells=cells))
    next_step("`datastreamx explain BOX` tells why a box was shown its last ad")
    code = report.exit_code(found)
    if code is not Exit.OK:
        raise typer.Exit(code)
