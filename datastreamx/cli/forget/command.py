"""The command `forget`."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from datastreamx.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from datastreamx.cli.output import Exit, emit
from datastreamx.cli.progress import progress
from datastreamx.cli.terminal import show

_KEY = re.compile(r"[0-9a-f]{32}")


def forget(  # noqa: PLR0913  one parameter per option
    box: Annotated[str | None, typer.Argument(help="Raw id of the box, e.g. stb-000042.", metavar="BOX")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    box_key: Annotated[
        list[str] | None,
        typer.Option(
            "--box-key",
            help="A pseudonym of the box, e.g. one from before privacy.box_key_secret was changed. May be repeated.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Erase; without it nothing is changed.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Erase although the box was heard of within viewing.state_ttl_ms.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Erase a box: delete its rows in BigQuery, and tell what else there is of it, and until when.

    Without `--yes` rows are only counted. Do it when the box has been silent for `viewing.state_ttl_ms`: before, the
    flows may write more about it, so it is refused without `--force`. It may be done again at any time, and has to be
    after rows were loaded again, e.g. by a replay. The JSON carries pseudonyms only. Exit code 1: it was refused, or
    rows were left.

    Examples:
    - `datastreamx forget stb-000042`

    - `datastreamx forget stb-000042 --yes --json > erased.json`
    """
    keys = [*dict.fromkeys(box_key or ())]
    if box == "" or (box is None and not keys):
        raise typer.BadParameter("name a box, or a pseudonym of one with --box-key")
    wrong = [key for key in keys if not _KEY.fullmatch(key)]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]!r} is no pseudonym: those are 32 hex digits, as in the column box_key")
    from datastreamx.cli.forget.render import render  # noqa: PLC0415  heavy, not needed for --help
    from datastreamx.cli.forget.report import as_json as json_of  # noqa: PLC0415  likewise
    from datastreamx.cli.forget.run import Wish, run  # noqa: PLC0415  likewise
    from datastreamx.clock import SystemClock  # noqa: PLC0415  likewise
    from datastreamx.config import load_config  # noqa: PLC0415  likewise

    with progress("counting rows") as tell:
        wish = Wish(box, tuple(keys), is_meant=yes, is_forced=force)
        erasure = run(load_config(config), wish, SystemClock(), tell)
    if as_json:
        emit(json_of(erasure))
    else:
        show(*render(erasure))
    if erasure.left:
        raise typer.Exit(Exit.FAILED)
