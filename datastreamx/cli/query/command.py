"""The command `query`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from datastreamx.cli.format import plural, size
from datastreamx.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from datastreamx.cli.output import Exit, emit, is_interactive, say
from datastreamx.cli.terminal import next_step, show, working
from datastreamx.errors import CrashError

if TYPE_CHECKING:
    from datastreamx.cli.warehouse import Answer
    from datastreamx.config import Config


def query(  # noqa: PLR0913  one parameter per option
    sql: Annotated[str, typer.Argument(help="GoogleSQL; `-` reads it from standard input.", metavar="SQL")],
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    limit: Annotated[int, typer.Option(min=0, help="Most rows to print; 0 prints all.")] = 100,
    max_gib: Annotated[
        int, typer.Option(min=1, help="A query that would read more is refused, free of charge (not locally).")
    ] = 10,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print rows as CSV.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask BigQuery, or the local one, in SQL. Table names need no dataset.

    Tables: `box_events`, `viewing_sessions`, `ad_decisions`, `bids`, `late_bids`, `impressions`, `minute_rollups`. Each
    wants a filter on its partition column. Their columns are in datastreamx/tables.py.

    Examples:
    - `datastreamx query "SELECT * FROM ad_decisions WHERE decided_time > TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL
    1 HOUR)"`

    - `datastreamx query --csv --limit 0 - < report.sql > report.csv`
    """
    from datastreamx.cli.query import render  # noqa: PLC0415  heavy, not needed for --help
    from datastreamx.config import load_config  # noqa: PLC0415  likewise

    if as_csv and as_json:
        raise typer.BadParameter("choose one of --csv and --json")
    text = sys.stdin.read() if sql == "-" else sql
    if not text.strip():
        raise typer.BadParameter("the SQL is empty")
    loaded = load_config(config)
    answer = _ask(loaded, text, limit=limit, max_gib=max_gib)
    rows = answer.rows
    if as_json:
        records = [{name: render.plain(value) for name, value in record.items()} for record in answer.records]
        emit({"columns": answer.columns, "rows": records, "is_cut": answer.is_cut})
    elif as_csv:
        sys.stdout.write(render.as_csv(answer.columns, rows))
    elif answer.columns:
        show(render.as_table(answer.columns, rows))
    if answer.is_cut:
        say(f"cut after {plural(limit, 'row')}; --limit 0 prints all")
    if is_interactive():
        say(f"{plural(len(rows), 'row')}, {size(answer.bytes_processed)} read")
    next_step("`--csv` and `--json` print the same for other programs")


def _ask(config: Config, sql: str, *, limit: int, max_gib: int) -> Answer:
    """The answer; a missing partition filter is pointed out even where nobody insists on it."""
    from datastreamx.cli.query.filters import filter_hint, is_missing_filter, unfiltered_tables  # noqa: PLC0415
    from datastreamx.cli.warehouse import Warehouse  # noqa: PLC0415  heavy, not needed for --help

    unfiltered = unfiltered_tables(sql)
    try:
        with working("asking BigQuery ..."):
            answer = Warehouse(config.bigquery).ask(sql, rows_max=limit or None, gib_max=max_gib)
    except CrashError as error:
        if not is_missing_filter(str(error)):
            raise
        say(f"error: {error}\nhint: {filter_hint(unfiltered)}")
        raise typer.Exit(Exit.FAILED) from None
    if unfiltered and config.bigquery.rest_endpoint is not None:
        say(f"note: BigQuery would refuse this query, the local one does not; {filter_hint(unfiltered)}")
    return answer
