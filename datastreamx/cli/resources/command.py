"""The commands `plan` and `apply`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from datastreamx.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from datastreamx.cli.output import Exit, emit
from datastreamx.cli.terminal import next_step, show, working

if TYPE_CHECKING:
    from datastreamx.cli.resources.report import Report


def plan(config: ConfigOption = DEFAULT_CONFIG, *, as_json: JsonOption = False) -> None:
    """Show the topics and tables that would be made or changed. Changes nothing.

    Both Kafka and BigQuery are reported even when one does not answer (exit code 4).

    Examples:
    - `datastreamx plan --config datastreamx.toml`

    - `datastreamx plan --json | jq '.kafka.changes + .bigquery.changes'`
    """
    from datastreamx.cli.resources.survey import plan_everything  # noqa: PLC0415  heavy, not needed for --help
    from datastreamx.config import load_config  # noqa: PLC0415  likewise

    with working("asking Kafka and BigQuery ..."):
        report = plan_everything(load_config(config))
    _finish(report, as_json=as_json)


def apply(config: ConfigOption = DEFAULT_CONFIG, *, as_json: JsonOption = False) -> None:
    """Make the topics, dataset, tables and columns that are missing. Doing it again changes nothing.

    Nothing is ever deleted or rewritten: what exists in a shape that cannot be used is reported with its remedy.

    Example: `datastreamx apply --config datastreamx.toml`
    """
    from datastreamx.cli.resources.survey import apply_everything  # noqa: PLC0415  heavy, not needed for --help
    from datastreamx.config import load_config  # noqa: PLC0415  likewise

    with working("preparing Kafka and BigQuery ..."):
        report = apply_everything(load_config(config))
    _finish(report, as_json=as_json)


def _finish(report: Report, *, as_json: bool) -> None:
    from datastreamx.cli.resources.report import exit_code, hint, render  # noqa: PLC0415  heavy, as above

    if as_json:
        emit(report)
    else:
        show(*render(report))
    next_step(hint(report))
    code = exit_code(report)
    if code is not Exit.OK:
        raise typer.Exit(code)
