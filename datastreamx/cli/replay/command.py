"""`datastreamx replay`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from datastreamx.cli.options import DEFAULT_CONFIG, ConfigOption
from datastreamx.cli.replay.moment import BEGINNING, moment_ms

if TYPE_CHECKING:
    from datastreamx.config import Config
    from datastreamx.place import Place
    from flows.replaying.run import Work

STOPPED = 130


def replay(  # noqa: PLR0913 - one parameter per option
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    begin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="TIME",
            help="Where to begin: ISO 8601, a time ago such as 2h, or beginning. State is exact if it is further back "
            "than viewing.state_ttl_ms, and each box has tuned since.",
        ),
    ],
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Where to end, by Kafka's timestamps; else where the log ends now."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Write all rows anew into this dataset, which is made, instead of building a store."
        ),
    ] = None,
    ordinal: Annotated[
        int | None,
        typer.Option(min=0, help="Cell whose store is built; else $DATASTREAMX_ORDINAL, else 0. Not with --dataset."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Write logs as JSON lines.")] = False,
) -> None:
    """Build state or rows anew from Kafka. Nothing is pushed, no aggregator is called.

    Without `--dataset`: the recovery store of the ads flow, when it is lost or was refused. Facts that were never
    written are written; opportunities without a decision are recorded as expired.

    With it: all tables in another dataset, by the rules of this configuration.

    After a crash or Ctrl-C the same command goes on where it was.

    Example: `datastreamx replay --from 26h`

    Example: `datastreamx replay --from 2026-11-01 --until 2026-11-08 --dataset rules_v2 --json`
    """
    from datastreamx.cli.output import emit  # noqa: PLC0415 - see datastreamx.cli.app
    from datastreamx.cli.replay.report import tell  # noqa: PLC0415
    from datastreamx.cli.replay.watching import watching  # noqa: PLC0415
    from datastreamx.clock import SystemClock  # noqa: PLC0415
    from datastreamx.config import load_config  # noqa: PLC0415
    from datastreamx.log import configure_logging  # noqa: PLC0415
    from datastreamx.place import Place, place_of  # noqa: PLC0415
    from flows.replaying.marker import Order, Request  # noqa: PLC0415
    from flows.replaying.run import replay as run  # noqa: PLC0415
    from flows.replaying.span import Span  # noqa: PLC0415

    configure_logging(json=json_logs)
    loaded = load_config(config)
    now_ms = SystemClock().now_ms()
    span = Span(
        from_ms=None if begin == BEGINNING else moment_ms(begin, now_ms),
        until_ms=now_ms if until is None else moment_ms(until, now_ms),
    )
    if span.from_ms is not None and span.from_ms >= span.until_ms:
        raise typer.BadParameter(f"--from {begin} is not before --until {until}")
    if dataset is not None and ordinal is not None:
        raise typer.BadParameter("--ordinal chooses a store; with --dataset all partitions are read by this process")
    place = Place() if dataset is not None else place_of(loaded, ordinal)
    work = _store(loaded, place) if dataset is None else _rows(loaded, dataset)
    order = Order(Request(begin=begin, until=until, dataset=dataset), span)
    summary = run(loaded, place, work, order, watching)
    if as_json:
        emit(summary)
    tell(summary)
    if not summary.is_finished:
        sys.exit(STOPPED)


def _store(config: Config, place: Place) -> Work:
    from flows.replaying.state import StoreWork  # noqa: PLC0415 - only one of them is needed, and each loads much

    return StoreWork(config, place)


def _rows(config: Config, dataset: str) -> Work:
    from flows.replaying.rows import RowsWork  # noqa: PLC0415 - see above

    return RowsWork(config, dataset)
