"""The commands `backup` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datastreamx.cli.flows import BackedUpFlowsOption, FlowsOption
from datastreamx.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from datastreamx.cli.output import emit
from datastreamx.cli.progress import progress
from datastreamx.cli.terminal import show


def backup(
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    to: Annotated[Path, typer.Option(help="A new or empty folder. It appears when the backup is complete.")],
    flow: FlowsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the recovery stores of this machine, while the flows run or not, and check the copies.

    Each store is consistent in itself, and of its own moment: flows and cells share no state.

    Example: `datastreamx backup --to /backups/$(date -u +%Y%m%dT%H%M%SZ)`
    """
    from datetime import UTC, datetime  # noqa: PLC0415  only what --help needs is loaded for it

    from datastreamx.cli.backup.render import render_backup  # noqa: PLC0415  likewise
    from datastreamx.config import load_config  # noqa: PLC0415  likewise
    from flows.recovery.backup import back_up  # noqa: PLC0415  likewise

    with progress("reading the recovery stores") as tell:
        record = back_up(
            load_config(config), to.absolute(), datetime.now(UTC), flows=tuple(dict.fromkeys(flow or ())), on_step=tell
        )
    if as_json:
        emit(record)
    else:
        show(*render_backup(record, to))


def restore(  # noqa: PLR0913 - one parameter per option
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    source: Annotated[Path, typer.Option("--from", help="Folder of a backup.")],
    flow: BackedUpFlowsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Set aside the stores that are there.")] = False,
    accept_duplicates: Annotated[
        bool,
        typer.Option(
            "--accept-duplicates",
            help="Put back an old store of the warehouse or the notices flow, which repeats what it did since.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Put recovery stores from a backup in their places. The flows have to be stopped; nothing is deleted.

    An old store of the ads flow does no harm: the flow reads its decisions back from the log, and the facts that it
    writes again are dropped. When it is interrupted, the same command takes it back or finishes it.

    Examples:
    - `datastreamx restore --from /backups/20260102T030405Z --flow ads`

    - `datastreamx restore --from /backups/20260102T030405Z --force`
    """
    from datetime import UTC, datetime  # noqa: PLC0415  only what --help needs is loaded for it

    from datastreamx.cli.backup.render import render_restore  # noqa: PLC0415  likewise
    from datastreamx.config import load_config  # noqa: PLC0415  likewise
    from flows.recovery.restore import Restore  # noqa: PLC0415  likewise
    from flows.recovery.restore import restore as do  # noqa: PLC0415  likewise

    loaded = load_config(config)
    wanted = Restore(
        loaded,
        source.absolute(),
        tuple(dict.fromkeys(flow or ())),
        force=force,
        accept_duplicates=accept_duplicates,
    )
    with progress("checking the backup") as tell:
        report = do(wanted, datetime.now(UTC), tell)
    if as_json:
        emit(report)
    else:
        show(*render_restore(report, loaded.scaling))
