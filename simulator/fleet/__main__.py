"""Run a fleet of boxes: `python -m simulator.fleet --config FILE --boxes N --ledger PATH`.

SIGTERM or SIGINT ends it: displays finish, every event is acknowledged, the final ledger has `"finished": true`.
Exit codes: 0 finished, 1 the broker did not acknowledge everything, 2 the configuration or the topics do not fit.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from datastreamx.config import load_config
from datastreamx.errors import CrashError
from datastreamx.log import configure_logging
from simulator.fleet.driver import FleetOptions, StopRequest, run_fleet
from simulator.fleet.faults import FAULTS, PRESETS, parse_faults
from simulator.fleet.ledger import Ledger
from simulator.fleet.parameters import Behaviour

OUTAGE_RECORDS = 1_000
"""Fewer unacknowledged records are always on their way; more are worth a word on the progress line."""


def main(argv: list[str] | None = None) -> int:
    """Run until stopped; see the module for the exit codes."""
    arguments = _parser().parse_args(argv)
    configure_logging(json=not sys.stderr.isatty())
    console = Console(stderr=True)
    show = console.is_terminal and not arguments.json and not arguments.quiet
    try:
        config = load_config(arguments.config)
        options = _options(arguments)
        stop = StopRequest()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stop.set())
        if show:
            with Live(console=console, auto_refresh=False, transient=True) as live:
                ledger = run_fleet(
                    config,
                    options,
                    stop,
                    lambda books: live.update(Text(progress_line(books)), refresh=True),
                )
        else:
            ledger = run_fleet(config, options, stop)
    except (CrashError, ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(ledger), indent=2).decode() + "\n")
    elif show:
        console.print(Text(progress_line(ledger)))
    return 0 if ledger.finished else 1


def progress_line(ledger: Ledger) -> str:
    """The run in one line."""
    seconds = max(1, (ledger.updated_ms - ledger.started_ms) // 1000)
    pushes, latency = ledger.pushes, ledger.event_to_push_ms
    parts = [
        f"{seconds} s",
        f"{ledger.boxes_on:,} of {ledger.boxes:,} boxes on",
        f"{ledger.events:,} events ({ledger.events // seconds:,}/s)",
        f"{pushes.distinct:,} pushes",
        f"{ledger.displays_reported:,} displays",
    ]
    if latency.p99_ms is not None:
        parts.append(f"event to push p50 {latency.p50_ms} ms, p99 {latency.p99_ms} ms")
    if pushes.duplicates or pushes.after_deadline:
        parts.append(f"{pushes.duplicates} copies, {pushes.after_deadline} too late")
    if pushes.forged:
        parts.append(f"{pushes.forged:,} with a wrong signature")
    if ledger.records_waiting >= OUTAGE_RECORDS:
        parts.append(f"{ledger.records_waiting:,} waiting")
    return " | ".join(parts)


def _options(arguments: argparse.Namespace) -> FleetOptions:
    return FleetOptions(
        ledger=arguments.ledger,
        boxes=arguments.boxes,
        seed=arguments.seed,
        speed_up=arguments.speed_up,
        start_hour=arguments.start_hour,
        faults=parse_faults(arguments.faults),
        behaviour=Behaviour(
            channels=arguments.channels,
            start_spread_ms=int(arguments.start_spread * 1000),
            consent_share=arguments.consent_share,
        ),
        loud_share=arguments.loud_share,
        duration_s=arguments.duration,
        rate_limit=arguments.rate_limit,
        drain_limit_s=arguments.drain_limit,
        drain_quiet_s=arguments.drain_quiet,
        flush_limit_s=arguments.flush_limit,
        public_key=arguments.public_key,
    )


def _start_hour(text: str) -> float | None:
    return None if text == "now" else float(text)


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _parser() -> argparse.ArgumentParser:
    kinds = ", ".join(kind for kind in FAULTS if kind)
    defaults = FleetOptions(boxes=1, ledger=Path("ledger.json"))
    parser = argparse.ArgumentParser(prog="python -m simulator.fleet", description="A fleet of set-top boxes.")
    add = parser.add_argument
    add("--config", type=Path, required=True, help="configuration of the pipeline")
    add("--ledger", type=Path, required=True, help="where the fleet keeps its books (JSON, once a second)")
    add("--boxes", type=int, required=True, help="how many boxes")
    add("--seed", type=int, default=defaults.seed, help="chooses viewers and faults (%(default)s)")
    add("--channels", type=int, default=defaults.behaviour.channels, help="channels on air (%(default)s)")
    add("--speed-up", type=_positive, default=defaults.speed_up, help="viewers act this much faster (%(default)s)")
    add("--start-hour", type=_start_hour, default=defaults.start_hour, help="hour at the start, or `now` (%(default)s)")
    add("--start-spread", type=_positive, default=10.0, help="seconds within which boxes connect (%(default)s)")
    add(
        "--consent-share",
        type=float,
        default=defaults.behaviour.consent_share,
        help="share of viewers that agree to the use of their viewing history (%(default)s)",
    )
    add("--loud-share", type=float, default=defaults.loud_share, help="events of one more, loud box (%(default)s)")
    add("--public-key", type=bytes.fromhex, metavar="HEX", help="Ed25519 key with which pushes must be signed")
    add("--faults", default="none", help=f"{', '.join(PRESETS)}, or KIND=RATE,... with {kinds} (%(default)s)")
    add("--duration", type=_positive, help="seconds after which viewers stop (until SIGTERM)")
    add("--rate-limit", type=_positive, help="most events per second; beyond it, behaviour slows down")
    add(
        "--drain-limit",
        type=float,
        default=defaults.drain_limit_s,
        help="seconds for displays at the end (%(default)s)",
    )
    add("--drain-quiet", type=float, default=defaults.drain_quiet_s, help="quiet seconds that end it (%(default)s)")
    add("--flush-limit", type=float, default=defaults.flush_limit_s, help="seconds for the last acks (%(default)s)")
    add("--json", action="store_true", help="print the final ledger on standard output")
    add("--quiet", action="store_true", help="no progress line")
    return parser


if __name__ == "__main__":
    sys.exit(main())
