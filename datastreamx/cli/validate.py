"""`datastreamx validate`: every problem of a configuration file at once, without starting anything."""

from __future__ import annotations

import os
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from datastreamx.cli.format import plural
from datastreamx.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from datastreamx.cli.output import Exit, emit
from datastreamx.cli.terminal import next_step, show
from datastreamx.errors import ConfigError

if TYPE_CHECKING:
    from datastreamx.config import AggregatorConfig, AuctionConfig, Config


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a file; without problems it is usable."""

    file: str
    ok: bool
    problems: list[str]


def validate(
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    example: Annotated[
        bool, typer.Option("--example", help="Print a complete example with all keys and defaults instead.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a configuration file: all problems at once, aggregators' options, certificates and exchange rates included.

    Starts nothing. Secrets and files are looked up, so run it where the flows will run.

    Examples:
    - `datastreamx validate --example > datastreamx.toml`

    - `datastreamx validate --config datastreamx.toml`
    """
    if example:
        sys.stdout.write(example_text())
        next_step("edit it, then `datastreamx validate`")
        return
    if as_json:
        problems = problems_of(config)
        emit(Validation(file=str(config), ok=not problems, problems=problems))
        if problems:
            raise typer.Exit(Exit.CONFIG)
        return
    checked = load_checked(config)
    show(f"{config} is sound.", *(f"  {line}" for line in summary(checked)))
    next_step("`datastreamx doctor` checks what the configuration points at")


def example_text() -> str:
    """The example configuration: required keys filled in, optional ones as comments with their defaults."""
    return resources.files("datastreamx.config").joinpath("example.toml").read_text(encoding="utf-8")


def load_checked(path: Path) -> Config:
    """Configuration whose aggregators' options, certificates and exchange rates are sound, too.

    Raises:
        ConfigError: Lists the problems of the file, of all aggregators' options and certificates, and of
            `auction.rates_file`.
    """
    from aggregators.registry import build_adapters  # noqa: PLC0415  heavy, and not needed for --help
    from datastreamx.config import load_config  # noqa: PLC0415  likewise
    from datastreamx.config.loader import sound_aggregators  # noqa: PLC0415  likewise

    problems: list[str] = []
    config: Config | None = None
    try:
        config = load_config(path)
        aggregators = config.aggregators
    except ConfigError as error:
        problems += error.problems
        aggregators = sound_aggregators(path)
    try:
        build_adapters(aggregators)
    except ConfigError as error:
        problems += error.problems
    for one in aggregators:
        problems += _certificate_problems(one)
    if config is not None:
        problems += _rates_problems(config.auction)
    if config is None or problems:
        raise ConfigError(str(path), problems)
    return config


def _certificate_problems(aggregator: AggregatorConfig) -> list[str]:
    from datastreamx.clock import SystemClock  # noqa: PLC0415  heavy, as above
    from operators.bidding.caller import Caller  # noqa: PLC0415  likewise

    files = {key: getattr(aggregator, key) for key in ("ssl_ca_file", "ssl_certificate_file", "ssl_key_file")}
    missing = [
        f"aggregators.{aggregator.name}.{key}: {file} cannot be read; give the right path, or the right to read it"
        for key, file in files.items()
        if file is not None and not os.access(file, os.R_OK)
    ]
    if missing:
        return missing
    try:
        Caller(aggregator, 1, SystemClock())
    except ConfigError as error:
        return error.problems
    return []


def _rates_problems(auction: AuctionConfig) -> list[str]:
    from datastreamx.clock import SystemClock  # noqa: PLC0415  heavy, as above
    from operators.bidding.rates import RateTable  # noqa: PLC0415  likewise

    if auction.rates_file is None:
        return []
    try:
        RateTable(Path(auction.rates_file), auction.currency, auction.rates_max_age_hours, SystemClock())
    except ConfigError as error:
        return [f"auction.rates_file {error.source}: {problem}" for problem in error.problems]
    return []


def problems_of(path: Path) -> list[str]:
    """One line per problem of a file; empty when it is sound."""
    try:
        load_checked(path)
    except ConfigError as error:
        return error.problems
    return []


def summary(config: Config) -> list[str]:
    """What the configuration says, in a few lines."""
    events, names = config.events, ", ".join(f"{one.name} ({one.adapter})" for one in config.aggregators)
    location = f" at {config.bigquery.rest_endpoint}" if config.bigquery.rest_endpoint else ""
    groups = plural(events.groups_per_partition, "key group")
    return [
        f"Kafka        {config.kafka.bootstrap} ({config.kafka.security_protocol}), {config.topics.events}: "
        f"{plural(events.partitions, 'partition')} of {groups}",
        f"BigQuery     {config.bigquery.project}.{config.bigquery.dataset}{location}",
        f"Aggregators  {names}",
    ]
