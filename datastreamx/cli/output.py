"""How commands speak: results on standard output, everything else on standard error, exit codes that mean something."""

from __future__ import annotations

import os
import re
import sys
from enum import IntEnum
from typing import Any, NoReturn

import msgspec
import typer
from rich.console import Console

from datastreamx.errors import ConfigError, DatastreamXError, RetryableError


class Exit(IntEnum):
    """Exit codes of all commands.

    Attributes:
        FAILED: What was asked for could not be done, or must not be.
        USAGE: Something on the command line is wrong: by itself, or beside this configuration.
        CONFIG: The configuration, which is a file and environment variables, or a file that it names, is.
        UNREACHABLE: Kafka, BigQuery, an aggregator or a process of ours does not answer; the same command may succeed
            later.
        INVARIANT: A promise of this service was broken.
    """

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 3
    UNREACHABLE = 4
    INVARIANT = 5


stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """A message for a person."""
    stderr.print(message, markup=False)


def emit(value: Any) -> None:
    """A result for a machine: JSON on standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
    sys.stdout.flush()


def is_interactive() -> bool:
    """Whether a person watches the messages."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def fail(error: DatastreamXError) -> NoReturn:
    """One clear error, and the exit code that belongs to it."""
    if isinstance(error, ConfigError) and error.source.startswith("--"):
        # An option that only together with the configuration turned out wrong is told like one that was wrong at once.
        say(f"error: {error.source}: {'; '.join(error.problems)}")
        sys.exit(Exit.USAGE)
    say(f"error: {error}")
    match error:
        case ConfigError():
            sys.exit(Exit.CONFIG)
        case RetryableError():
            sys.exit(Exit.UNREACHABLE)
        case _:
            sys.exit(Exit.FAILED)


def seconds(text: str) -> float:
    """Seconds in a duration such as `90`, `60s`, `5m` or `2h`.

    Raises:
        typer.BadParameter: It is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration; write for example 60s, 5m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
