"""The command `prepare`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from datastreamx.cli.options import DEFAULT_CONFIG, ConfigOption, FlowArgument, OrdinalOption
from datastreamx.cli.replay.command import STOPPED

if TYPE_CHECKING:
    from datastreamx.config import Config
    from datastreamx.place import Place
    from flows.replaying.run import Summary


def prepare(
    flow: FlowArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    ordinal: OrdinalOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and write logs as JSON lines.")
    ] = False,
) -> None:
    """Bring the recovery store of a flow to its place before the flow is started there. Nothing to do is most common.

    Takes over the store that `datastreamx rescale --handed-over` has made for this place; what was there is set aside.
    Rebuilds a lost or refused store of the ads flow as `datastreamx replay --from beginning` does, if Kafka knows that
    the flow ran before. Those of the other flows cannot be rebuilt, and are left to the check at the start.

    When it is interrupted, the same command goes on. It never takes the same store twice.

    Example: `datastreamx prepare ads --ordinal 2 && datastreamx run ads --ordinal 2`
    """
    from datetime import UTC, datetime  # noqa: PLC0415  only what --help needs is loaded for it

    from datastreamx.cli.ending import ends_on_sigterm  # noqa: PLC0415  likewise
    from datastreamx.cli.output import emit  # noqa: PLC0415  likewise
    from datastreamx.cli.prepare.render import lines  # noqa: PLC0415  likewise
    from datastreamx.cli.terminal import show  # noqa: PLC0415  likewise
    from datastreamx.config import load_config  # noqa: PLC0415  likewise
    from datastreamx.log import configure_logging, get_logger  # noqa: PLC0415  likewise
    from datastreamx.place import place_of  # noqa: PLC0415  likewise
    from flows.prepare import Prepare  # noqa: PLC0415  likewise
    from flows.prepare import prepare as do  # noqa: PLC0415  likewise

    configure_logging(json=as_json)
    ends_on_sigterm()
    loaded = load_config(config)
    place = place_of(loaded, ordinal)
    log = get_logger("prepare")
    wanted = Prepare(loaded, flow, place, rebuild=lambda: _rebuild(loaded, place))
    report = do(wanted, datetime.now(UTC), lambda step: log.info("prepare.step", step=step))
    log.info("prepare.done", flow=flow, outcome=report.outcome, reason=report.reason)
    if as_json:
        emit(report)
    else:
        show(*lines(report))
    if report.outcome == "stopped":
        sys.exit(STOPPED)


def _rebuild(config: Config, place: Place) -> Summary:
    from datastreamx.cli.replay.moment import BEGINNING  # noqa: PLC0415  rarely needed, and it loads the whole flow
    from datastreamx.cli.replay.watching import watching  # noqa: PLC0415  likewise
    from datastreamx.clock import SystemClock  # noqa: PLC0415  likewise
    from flows.replaying.marker import Order, Request  # noqa: PLC0415  likewise
    from flows.replaying.run import replay  # noqa: PLC0415  likewise
    from flows.replaying.span import Span  # noqa: PLC0415  likewise
    from flows.replaying.state import StoreWork  # noqa: PLC0415  likewise

    order = Order(Request(begin=BEGINNING), Span(from_ms=None, until_ms=SystemClock().now_ms()))
    return replay(config, place, StoreWork(config, place), order, watching)
