"""The command `snapshot-volumes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datastreamx.cli.options import JsonOption
from datastreamx.cli.output import Exit, emit, say
from datastreamx.cli.terminal import show

_CREDENTIALS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SELECTOR = "app.kubernetes.io/name=datastreamx,app.kubernetes.io/component in (ads,warehouse,notices)"


def snapshot_volumes(
    *,
    keep: Annotated[int, typer.Option(min=1, help="Usable snapshots that stay per volume, beside the new one.")] = 24,
    snapshot_class: Annotated[
        str | None, typer.Option("--class", help="VolumeSnapshotClass. Unset: the default of the volume's driver.")
    ] = None,
    selector: Annotated[str, typer.Option(help="Labels of the claims.")] = _SELECTOR,
    credentials: Annotated[
        Path, typer.Option(help="Folder with token, ca.crt and namespace of the service account.")
    ] = _CREDENTIALS,
    as_json: JsonOption = False,
) -> None:
    """On Kubernetes: have a snapshot of each recovery volume made, and delete the oldest of its own beyond a number.

    Runs in a pod whose service account may list claims, and create, list and delete volume snapshots. Does not wait
    until they are usable: the next run tells of those that failed. Exit code 1: something was refused, or has failed.

    Example: `datastreamx snapshot-volumes --keep 24 --json`
    """
    import os  # noqa: PLC0415  only what --help needs is loaded for it

    from datastreamx.cli.volumes.account import account_of  # noqa: PLC0415  likewise
    from datastreamx.cli.volumes.cluster import Cluster  # noqa: PLC0415  likewise
    from datastreamx.cli.volumes.turn import Wanted, take_turn  # noqa: PLC0415  likewise
    from datastreamx.clock import SystemClock  # noqa: PLC0415  likewise

    cluster = Cluster(account_of(os.environ, credentials))
    turn = take_turn(cluster, Wanted(selector=selector, keep=keep, snapshot_class=snapshot_class), SystemClock())
    if as_json:
        emit(turn)
    else:
        show(*(f"{what} {name}" for what, names in (("made", turn.made), ("deleted", turn.deleted)) for name in names))
    for claim in turn.skipped:
        say(f"skipped: {claim} has no volume")
    for problem in turn.problems:
        say(f"error: {problem}")
    if turn.problems:
        raise typer.Exit(Exit.FAILED)
