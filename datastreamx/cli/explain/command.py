"""The command `explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from datastreamx.cli.format import plural
from datastreamx.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from datastreamx.cli.output import Exit, emit, say
from datastreamx.cli.terminal import next_step, show, working


def explain(
    box: Annotated[str, typer.Argument(help="Raw id of the box, e.g. stb-000042.", metavar="BOX")],
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    last: Annotated[int, typer.Option(min=1, max=1_000, help="How many decisions, newest first.")] = 1,
    since: Annotated[int, typer.Option(min=1, max=24 * 366, help="How far to look back, hours.")] = 24,
    as_json: JsonOption = False,
) -> None:
    """Tell why a box was shown its last ad: its state, who was asked, what they answered, who won, what was shown.

    Reads BigQuery, so it knows what has landed there (seconds later). The box's pseudonym is computed with the
    configured secret; the JSON carries only the pseudonym. Exit code 1: no decision was found.

    Examples:
    - `datastreamx explain stb-000042`

    - `datastreamx explain stb-000042 --last 5 --since 48 --json`
    """
    from datastreamx.cli.explain.fetch import fetch, why_nothing  # noqa: PLC0415  heavy, not needed for --help
    from datastreamx.cli.explain.render import render  # noqa: PLC0415  likewise
    from datastreamx.cli.warehouse import Warehouse  # noqa: PLC0415  likewise
    from datastreamx.clock import SystemClock  # noqa: PLC0415  likewise
    from datastreamx.config import load_config  # noqa: PLC0415  likewise
    from datastreamx.model.identity import box_key  # noqa: PLC0415  likewise

    loaded = load_config(config)
    key = box_key(loaded.privacy.box_key_secret.reveal().encode(), box)
    now_ms = SystemClock().now_ms()
    with working("asking BigQuery ..."):
        warehouse = Warehouse(loaded.bigquery)
        explanation = fetch(warehouse, key, last=last, since_hours=since, now_ms=now_ms)
    if as_json:
        emit(explanation)
    elif explanation.decisions:
        show(*render(box, explanation, now_ms))
    if not explanation.decisions:
        reason = why_nothing(warehouse, key, since_hours=since, now_ms=now_ms)
        say(f"no decision for {box} ({key}) in the last {plural(since, 'hour')}, {reason}")
        raise typer.Exit(Exit.FAILED)
    next_step(f"`datastreamx explain {box} --last 10` goes further back; `datastreamx query` asks anything else")
