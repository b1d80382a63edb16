"""`datastreamx simulate`: boxes for the configured Kafka."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datastreamx.cli.options import DEFAULT_CONFIG, ConfigOption
from datastreamx.cli.output import Exit, emit, is_interactive, say, seconds, stderr
from datastreamx.cli.terminal import next_step, show

if TYPE_CHECKING:
    from simulator.fleet.driver import StopRequest
    from simulator.fleet.ledger import Ledger


def simulate(  # noqa: PLR0913  one parameter per option
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    boxes: Annotated[int, typer.Option(min=1, max=1_000_000, help="Size of the fleet.")] = 1_000,
    duration: Annotated[
        str | None, typer.Option("--for", help="How long, e.g. 60s or 5m; without it until Ctrl-C.", metavar="TIME")
    ] = None,
    seed: Annotated[int, typer.Option(help="Repeats viewers and faults.")] = 1,
    speed_up: Annotated[float, typer.Option(min=0.1, help="Viewers act this much faster than real ones.")] = 1.0,
    start_hour: Annotated[
        float, typer.Option(min=0, max=24, help="Hour of the viewers' day at the start; most watch at 20.")
    ] = 20.0,
    channels: Annotated[int, typer.Option(min=6, help="Channels on air.")] = 40,
    consent_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of viewers that agree to the use of their viewing history.")
    ] = 0.9,
    public_key: Annotated[
        str | None, typer.Option(help="Ed25519 key, 64 hex digits, with which pushes must be signed.", metavar="HEX")
    ] = None,
    rate_limit: Annotated[float | None, typer.Option(min=0.1, help="Most events per second.")] = None,
    faults: Annotated[str, typer.Option(help="`none`, `some` or KIND=RATE,KIND=RATE.")] = "none",
    ledger: Annotated[Path, typer.Option(help="Where the fleet keeps its books: what it sent, what came back.")] = Path(
        "datastreamx-data/fleet-ledger.json"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the final ledger as JSON.")] = False,
) -> None:
    """Play set-top boxes against the configured Kafka: they report, receive pushes and display them.

    The topics must exist (`datastreamx apply`). Ctrl-C or SIGTERM ends it: displays finish, every event is
    acknowledged. With `--public-key`, pushes without a valid signature are counted and not displayed. Exit code 4: the
    broker did not acknowledge everything.

    Examples:
    - `datastreamx simulate --boxes 3000 --for 5m`

    - `datastreamx simulate --boxes 500 --speed-up 10 --faults duplicate=0.01,malformed=0.001 --json`
    """
    from datastreamx.config import load_config  # noqa: PLC0415  heavy, not needed for --help
    from datastreamx.log import configure_logging  # noqa: PLC0415  likewise
    from datastreamx.topics import plan_topics  # noqa: PLC0415  likewise
    from simulator.fleet.__main__ import progress_line  # noqa: PLC0415  likewise
    from simulator.fleet.driver import FleetOptions, StopRequest, run_fleet  # noqa: PLC0415  likewise
    from simulator.fleet.faults import parse_faults  # noqa: PLC0415  likewise
    from simulator.fleet.parameters import Behaviour  # noqa: PLC0415  likewise

    loaded = load_config(config)
    try:
        options = FleetOptions(
            ledger=ledger,
            boxes=boxes,
            seed=seed,
            speed_up=speed_up,
            start_hour=start_hour,
            faults=parse_faults(faults),
            behaviour=Behaviour(channels=channels, consent_share=consent_share),
            duration_s=None if duration is None else seconds(duration),
            rate_limit=rate_limit,
            public_key=None if public_key is None else _key(public_key),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    configure_logging(json=not sys.stderr.isatty(), level="warning")
    # The fleet itself would wait for a broker for ever.
    plan_topics(loaded)
    ledger.parent.mkdir(parents=True, exist_ok=True)
    stop = StopRequest()
    _stop_on_signals(stop)
    with _progress(progress_line) as watch:
        books = run_fleet(loaded, options, stop, watch)
    if as_json:
        emit(books)
    else:
        show(progress_line(books), f"ledger: {ledger}")
    next_step("`datastreamx status` shows whether the flows keep up")
    if not books.finished:
        say("the broker did not acknowledge every event: is it up? `datastreamx doctor` tells more")
        raise typer.Exit(Exit.UNREACHABLE)


def _key(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        # Without the text: somebody may have given the private key.
        raise typer.BadParameter("this is no key; write it as 64 hex digits", param_hint="--public-key") from None


def _stop_on_signals(stop: StopRequest) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())


@contextmanager
def _progress(line: Callable[[Ledger], str]) -> Iterator[Callable[[Ledger], None]]:
    if not is_interactive():
        yield lambda _books: None
        return
    with stderr.status("starting the boxes ...") as shown:
        yield lambda books: shown.update(line(books))
