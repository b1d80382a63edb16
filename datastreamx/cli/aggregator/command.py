"""The commands `aggregator test` and `aggregator list`."""

from __future__ import annotations

from typing import Annotated

import typer

from datastreamx.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from datastreamx.cli.output import Exit, emit
from datastreamx.cli.terminal import next_step, show, working

_MICROS = 1_000_000

aggregator = typer.Typer(
    help="Aggregators: does one answer as its dialect says, and which are there.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@aggregator.command("test")
def ask_one(  # noqa: PLR0913  one parameter per option
    name: Annotated[str, typer.Argument(help="A configured aggregator, or else a dialect.", metavar="NAME")],
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Ask the configured aggregator once.")] = True,
    channel: Annotated[str, typer.Option(help="Channel that is offered.", metavar="ID")] = "test",
    slot_s: Annotated[
        int | None,
        typer.Option(min=1, max=3_600, help="Seconds that are offered; more than viewing.slot_ms is a break."),
    ] = None,
    floor: Annotated[
        float | None, typer.Option(min=0, max=1_000_000, help="Lowest CPM; without it the configured one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the JSON cases of a dialect, then ask the configured aggregator for one ad, for real.

    Shows what is sent and what comes back, where the time goes, what an auction would make of each bid, and which
    notices are asked for. The request is that of an auction, but for an id that begins with 7e577e57, no viewing
    history, and a mark as a test where the dialect has one. No notice is sent, no ad is displayed. What may be a
    secret of the configuration is shown as `***`.

    Exit code 0: all cases pass, and the answer was a bid that can win or an honest no-bid; 4: no answer; 3: the
    configuration is wrong; 1: anything else.

    Examples:
    - `datastreamx aggregator test adriatic`

    - `datastreamx aggregator test openrtb --no-probe`

    - `datastreamx aggregator test adriatic --slot-s 90 --floor 2.5 --json | jq .probe.bids`
    """
    from datastreamx.cli.aggregator.inventory import find, run_cases  # noqa: PLC0415  heavy, not needed for --help
    from datastreamx.cli.aggregator.probe import Terms  # noqa: PLC0415  likewise
    from datastreamx.cli.aggregator.probe import probe as ask  # noqa: PLC0415  likewise
    from datastreamx.cli.aggregator.redact import scrubbed, secrets_of  # noqa: PLC0415  likewise
    from datastreamx.cli.aggregator.render import render  # noqa: PLC0415  likewise
    from datastreamx.cli.aggregator.report import Tested  # noqa: PLC0415  likewise
    from datastreamx.cli.aggregator.verdict import conclude  # noqa: PLC0415  likewise
    from datastreamx.clock import SystemClock  # noqa: PLC0415  likewise

    try:
        loaded, chosen = find(name, config)
    except LookupError as error:
        raise typer.BadParameter(str(error), param_hint="NAME") from None
    clock = SystemClock()
    with working("running the cases ..."):
        cases = run_cases(chosen.adapter if chosen is not None else name)
    told = None
    if probe and loaded is not None and chosen is not None:
        terms = Terms(
            channel_id=channel,
            slot_ms=None if slot_s is None else slot_s * 1000,
            floor_micros=None if floor is None else round(floor * _MICROS),
        )
        with working(f"asking {name} ..."):
            told = ask(loaded, chosen, terms, clock)
    ending = conclude(name, cases, told)
    tested = Tested(
        name=name,
        aggregator=None if chosen is None else chosen.name,
        ok=ending.exit is Exit.OK,
        exit_code=ending.exit,
        verdict=ending.verdict,
        remedy=ending.remedy,
        cases=cases,
        probe=told,
    )
    if chosen is not None:
        tested = scrubbed(tested, secrets_of(chosen))
    if as_json:
        emit(tested)
    else:
        show(*render(tested, clock.now_ms()))
    if ending.exit is not Exit.OK:
        raise typer.Exit(ending.exit)
    next_step("`datastreamx aggregator list` shows the others" if told is None else "`datastreamx run ads`")


@aggregator.command("list")
def list_all(config: ConfigOption = DEFAULT_CONFIG, *, as_json: JsonOption = False) -> None:
    """List the configured aggregators with what they get, and all dialects with the number of their cases.

    Examples:
    - `datastreamx aggregator list`

    - `datastreamx aggregator list --json | jq -r '.aggregators[].name'`
    """
    from datastreamx.cli.aggregator.inventory import listing  # noqa: PLC0415  heavy, not needed for --help
    from datastreamx.cli.aggregator.render import render_list  # noqa: PLC0415  likewise
    from datastreamx.config import load_config  # noqa: PLC0415  likewise

    listed = listing(load_config(config))
    if as_json:
        emit(listed)
    else:
        show(*render_list(listed))
    next_step("`datastreamx aggregator test NAME` asks one of them")
